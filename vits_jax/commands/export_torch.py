"""A checkpoint of vits_jax to a .ckpt that `piper.train fit --ckpt_path` continues from.

vits-jax export-torch CHECKPOINT OUT.ckpt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vits_jax.cli import Parser, run
from vits_jax.commands.checkpoint_flags import CHECKPOINT, add_voice_config


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.checkpoints.piper.convert import export_ckpt

    export_ckpt(flags.checkpoint, flags.output, flags.voice_config)


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("export_torch", "Write a checkpoint as Piper's trainer writes its own.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("output", metavar="OUT.ckpt", type=Path)
    add_voice_config(parser)
    return parser
