"""One speaker out of a checkpoint with several, as a checkpoint with one.

vits-jax extract-speaker runs/four runs/anna --speaker anna
vits-jax extract-speaker runs/four runs/new --speaker anna=0.7,bob=0.3
"""

from __future__ import annotations

from collections.abc import Sequence

from vits_jax.cli import Parser, run
from vits_jax.commands.checkpoint_flags import CHECKPOINT, add_best, add_voice_config


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.checkpoints import one_speaker
    from vits_jax.checkpoints.source import open_checkpoint

    source = open_checkpoint(flags.checkpoint, flags.voice_config, best=flags.best)
    one_speaker.extract(source, flags.speaker).write(flags.output)


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("extract_speaker", "Make a checkpoint of one speaker of several.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("output", metavar="OUT", help="directory of the checkpoint, a new one")
    parser.add_argument(
        "--speaker",
        "--speaker-id",
        required=True,
        metavar="NAME|ID",
        help="who, by name or id; or parts of several, who are mixed: anna=0.7,bob=0.3",
    )
    add_voice_config(parser)
    add_best(parser)
    return parser
