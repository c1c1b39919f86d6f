"""``python -m vits_jax.export_onnx``: a checkpoint as a voice for Piper's runtimes.

    vits-jax export-onnx runs/anna voices/anna/anna.onnx
    vits-jax export-onnx runs/anna published --name anna --licence cc0-1.0

The second writes a directory of voices that Piper's clients can fetch them from: docs/voices.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from vits_jax.cli import Parser, run
from vits_jax.commands.checkpoint_flags import CHECKPOINT, add_voice_config, add_which
from vits_jax.commands.listing_flags import add_listing_flags, listing_of
from vits_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    if flags.half and flags.quantize:
        raise UserError("--half and --quantize: expected one of the two")
    said = listing_of(flags)
    # Imported after the flags are read: a mistyped flag is answered at once.
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            "exporting needs onnx and onnxruntime: pip install 'vits_jax[export]'"
        ) from error

    from vits_jax.compilation import use_cache
    from vits_jax.voice.cards import evaluated
    from vits_jax.voice.catalogue import Listing
    from vits_jax.voice.export import export

    listing = None
    if said is not None:
        figures = flags.evaluation and evaluated(flags.evaluation, flags.checkpoint)
        listing = Listing(**said, evaluation=figures)
    use_cache()
    form = "float16" if flags.half else "int8" if flags.quantize else "float32"
    export(
        flags.checkpoint,
        flags.output,
        form=form,
        alignments=flags.alignments,
        streaming=flags.streaming,
        voice_config=flags.voice_config,
        ema=flags.ema,
        best=flags.best,
        listing=listing,
    )


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("export_onnx", "Write a checkpoint as a voice that Piper's runtimes play.")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=CHECKPOINT,
    )
    parser.add_argument(
        "output",
        metavar="VOICE.onnx",
        help="written with its companions; with --name a directory of voices",
    )
    add_voice_config(parser)
    add_which(parser)
    parser.add_argument(
        "--alignments", action="store_true", help="give the phonemes' durations as a second output"
    )
    parser.add_argument(
        "--half", action="store_true", help="store weights as float16: half the size"
    )
    parser.add_argument(
        "--quantize",
        action="store_true",
        help="store weights in eight bits: under a third of the size",
    )
    parser.add_argument(
        "--streaming", action="store_true", help="write an encoder and a decoder as well"
    )
    add_listing_flags(parser)
    return parser
