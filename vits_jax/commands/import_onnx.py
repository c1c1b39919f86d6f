"""A Piper voice (ONNX) to a checkpoint that speaks, is exported and warm-starts a run.

vits-jax import-onnx en_US-lessac-medium.onnx runs/lessac

Its JSON lies beside it (en_US-lessac-medium.onnx.json), or --voice-config names it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vits_jax.cli import Parser, run

_LOGGER = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.checkpoints.source import UNHEARD
    from vits_jax.checkpoints.voices import onnx_voice

    voice = onnx_voice.read(flags.voice, flags.voice_config)
    onnx_voice.write(flags.out, voice)
    numbers = sum(array.size for array in voice.parameters.values())
    _LOGGER.info("%s: %d tensors, %.1f M numbers", flags.out, len(voice.parameters), numbers / 1e6)
    absent = (
        f"{count} tensors {beginning}*"
        for beginning in UNHEARD
        if (count := sum(name.startswith(beginning) for name in voice.left_out))
    )
    _LOGGER.info(
        "not in an ONNX voice, so not in it: the optimizer, the discriminators, %s",
        ", ".join(absent),
    )


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("import_onnx", "Make a checkpoint of a Piper voice.")
    parser.add_argument("voice", metavar="VOICE.onnx", help="exported by Piper or by vits_jax")
    parser.add_argument("out", metavar="OUT", help="directory of the checkpoint, a new one")
    parser.add_argument("--voice-config", help="the voice's JSON (default: VOICE.onnx.json)")
    return parser
