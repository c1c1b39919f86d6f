"""The flags that commands which read a checkpoint share."""

from __future__ import annotations

from pathlib import Path

from vits_jax.cli import Parser

CHECKPOINT = "a run directory (its latest step is used), one step of it, or a .ckpt of Piper's"


def add_checkpoint(parser: Parser) -> None:
    """``--checkpoint``, and what goes with one of Piper's."""
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT)
    add_voice_config(parser)


def add_voice_config(parser: Parser) -> None:
    """``--voice-config``: the symbols and speakers, which a ``.ckpt`` lacks."""
    parser.add_argument(
        "--voice-config",
        metavar="FILE",
        type=Path,
        help="the config.json of the dataset that a .ckpt was trained on",
    )
