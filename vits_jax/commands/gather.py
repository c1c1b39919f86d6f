"""``vits-jax gather``: a folder of recordings to a corpus that ``preprocess`` reads."""

from __future__ import annotations

import logging
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vits_jax.cli import Parser, run
from vits_jax.data.gathering.gather import LONGEST, gather
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = """\
Make a corpus of recordings: each with its text beside it (a.wav, a.txt), or said by a recogniser
of yours, which long recordings need: they are cut at silences. FOLDER stays as it is.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    check_longest(flags.longest)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        gathered = gather(flags.folder, flags.out, flags.recogniser, flags.longest)
    finally:
        signal.signal(signal.SIGTERM, previous)
    for line in gathered.lines():
        _LOGGER.info("%s", line)


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("gather", _DESCRIPTION)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="recordings, below it too")
    parser.add_argument("out", type=Path, metavar="OUT", help="the corpus: preprocess --input-dir")
    add_gathering_flags(parser)
    return parser


def add_gathering_flags(parser: Parser) -> None:
    """What ``voice`` has too."""
    parser.add_argument(
        "--recogniser",
        metavar="MODULE:FUNCTION",
        help="says the text of recordings without one, and of the pieces of long ones: a function "
        "of float32 samples and their rate (16000, or what its attribute sample_rate says)",
    )
    parser.add_argument(
        "--longest",
        type=float,
        default=LONGEST,
        metavar="SECONDS",
        help=f"cut longer recordings (default: {LONGEST:g})",
    )


def check_longest(seconds: float) -> None:
    """Raise `UserError` for what is no length."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"--longest {seconds:g}: expected seconds above 0")


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
