"""The flags that commands which read a checkpoint share."""

from __future__ import annotations

from pathlib import Path

from vits_jax.cli import Parser

CHECKPOINT = "a run directory (its latest step is used), one step of it, or a .ckpt of Piper's"


def add_checkpoint(parser: Parser) -> None:
    """``--checkpoint``, and what goes with one of Piper's."""
    parser.add_argument("--checkpoint", required=True, help=CHECKPOINT)
    add_voice_config(parser)
    add_which(parser)


def add_which(parser: Parser) -> None:
    """``--best`` and ``--no-ema``, of commands that speak."""
    add_best(parser)
    parser.add_argument(
        "--no-ema",
        dest="ema",
        action="store_false",
        help="use the plain weights where the checkpoint has averages too (train --ema-decay)",
    )


def add_best(parser: Parser) -> None:
    """``--best``: which step of a run."""
    parser.add_argument(
        "--best",
        action="store_true",
        help="of a run directory the best step that is kept (train --keep-best-by), not the latest",
    )


def add_voice_config(parser: Parser) -> None:
    """``--voice-config``: the symbols and speakers, which a ``.ckpt`` lacks."""
    parser.add_argument(
        "--voice-config",
        metavar="FILE",
        type=Path,
        help="the config.json of the dataset that a .ckpt was trained on",
    )
