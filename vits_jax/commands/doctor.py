"""``vits-jax doctor``: what is installed and works, and the line that mends what does not.

Exit code 1 where something is broken that training cannot do without.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vits_jax import files
from vits_jax.cli import EXIT_DONE, EXIT_FAILED, Parser, run, version
from vits_jax.errors import UserError

_DESCRIPTION = """\
Say what is installed and whether it works: packages and extras, devices, memory, disk, the cache
of compiled programs, phonemes, a training step of the demo model. What is wrong comes with the
line that mends it.
"""
_SECONDS = 10.0
_LOGGER = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> int:
    flags = make_parser().parse(argv)
    if not 0 <= flags.seconds < float("inf"):
        raise UserError(f"--seconds {flags.seconds:g}: expected 0 or more")
    if flags.json:
        files.check_writable(flags.json.parent)
    try:
        from vits_jax.doctor import examine
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install '{error.name}'") from error

    print(f"vits_jax {version()}\n")
    found = []
    for finding in examine(flags.seconds):
        found.append(finding)
        print(f"{finding.about:14s}{finding.text}")
        if finding.mend is not None:
            print(f"{'':14s}{'broken' if finding.broken else 'trouble'}: {finding.mend}")
        if finding.about == "cache" and flags.seconds:
            _LOGGER.info("%s(trains; the first time it compiles for minutes)", " " * 14)
    broken = sum(finding.broken for finding in found)
    troubles = sum(finding.mend is not None for finding in found) - broken
    print(f"\n{broken} broken, {troubles} troubles" if broken or troubles else "\nall is well")
    if flags.json:
        content = {"version": version(), "findings": [asdict(finding) for finding in found]}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        files.write({flags.json: text.encode()})
    return EXIT_FAILED if broken else EXIT_DONE


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("doctor", _DESCRIPTION)
    parser.add_argument(
        "--seconds",
        type=float,
        default=_SECONDS,
        metavar="N",
        help=f"how long to train, after compiling; 0: not at all (default: {_SECONDS:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings here too")
    return parser
