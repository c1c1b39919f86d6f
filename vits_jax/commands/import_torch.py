"""A Piper .ckpt to a checkpoint of vits_jax.

vits-jax import-torch IN.ckpt OUT [--voice-config config.json]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vits_jax.cli import Parser, run
from vits_jax.commands.checkpoint_flags import add_voice_config


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.checkpoints.piper.convert import import_ckpt

    import_ckpt(flags.checkpoint, flags.output, flags.voice_config)


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("import_torch", "Convert a Piper .ckpt, of the old trainer or the new.")
    parser.add_argument("checkpoint", metavar="IN.ckpt", type=Path)
    parser.add_argument("output", metavar="OUT", type=Path, help="directory to make")
    add_voice_config(parser)
    return parser
