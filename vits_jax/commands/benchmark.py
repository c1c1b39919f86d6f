"""``vits-jax benchmark``: measure, side by side with the alternative in one run.

    vits-jax benchmark step --quality medium --batch-size 8 --phonemes 120 --frames 400 \\
        --steps 5 --peer --json step.json
    vits-jax benchmark step --quality demo --freeze enc_p,enc_q,flow,dp
    vits-jax benchmark compiled --target v5e:2x2 --precision bf16-mixed --json compiled.json
    vits-jax benchmark parts --quality medium --batch-size 32 --json parts.json
    vits-jax benchmark align --frames 1000 --phonemes 300 --batch-size 32 --json align.json
    vits-jax benchmark accelerator --peer --out figures
    vits-jax benchmark voice --quality medium --peer --json voice.json
    vits-jax benchmark import --quality high --peer --json import.json
    vits-jax benchmark saving --quality medium --batch-size 4
    vits-jax benchmark prepare --hours 50 --train --json prepare.json
    vits-jax benchmark startup --quality demo --batch-size 4 --json startup.json
    vits-jax benchmark watching --quality demo --minutes 60 --epochs 2
    vits-jax benchmark input --dataset-dir DIR --batch-size 32 --num-buckets 6

Machines are shared and noisy: the two sides take turns, and the ratio of the medians counts.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vits_jax.benchmarks.tables import table
from vits_jax.cli import Parser, run
from vits_jax.config import PRECISIONS, Config
from vits_jax.presets import preset, preset_names

# What each measures, the module that does, and the figure that is compared with the peer's.
_BENCHMARKS = {
    "step": ("the training step on random data", "training_step", "step_seconds"),
    "compiled": ("the training step compiled for chips that need not be here", "compiled", ""),
    "parts": ("the parts of the training step", "parts", ""),
    "precision": ("how far each precision is from float32", "precision", ""),
    "align": ("monotonic alignment in all its forms", "align", ""),
    "accelerator": ("all that only an accelerator can tell", "accelerator", ""),
    "startup": ("the time to the first step, cold and from the cache", "startup", ""),
    "saving": ("what saving costs beside the training step", "saving", "save_seconds"),
    "voice": ("the exported voice in onnxruntime", "voice", "rtf"),
    "import": ("importing a Piper checkpoint", "importing", "import_seconds"),
    "prepare": ("preparing a corpus of synthetic speech", "preparing", "prepare_seconds"),
    "watching": ("what validation, metrics, logging and saving cost of a run", "watching", ""),
    "input": ("how fast batches come, and how much of them is padding", "reading", ""),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    _, module, measured = _BENCHMARKS[flags.command]
    # Imported after the flags are read: a mistyped flag is answered at once.
    benchmark = importlib.import_module(f"vits_jax.benchmarks.{module}").benchmark
    result: dict[str, Any] = benchmark(flags, _config(flags))
    for name, value in result.items():
        if name == "parts":
            print(f"\n{table(value)}\n")
        else:
            print(f"{name:24s} {value}")
    if result.get(f"peer_{measured}"):
        ratio = result[measured] / result[f"peer_{measured}"]
        print(f"{'ratio to the peer':24s} {ratio:.3f}")
    if flags.json:
        Path(flags.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _config(flags: argparse.Namespace) -> Config:
    """The configuration that ``--quality`` stands for."""
    config = preset(flags.quality) if "quality" in flags else Config()
    more = {"num_speakers": flags.speakers} if "speakers" in flags else {}
    more |= {"use_sdp": not flags.plain} if "plain" in flags else {}
    more |= {"precision": flags.precision} if "precision" in flags else {}
    more |= {"use_mrd": flags.use_mrd} if "use_mrd" in flags else {}
    return config.replaced(more)


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("benchmark", "Measure, side by side with the alternative in one run.")
    kinds = parser.add_subparsers(dest="command", required=True, parser_class=_Benchmark)
    of = {name: kinds.add_parser(name, help=what) for name, (what, _, _) in _BENCHMARKS.items()}
    step, compiled, parts, precision = (
        of[name] for name in ("step", "compiled", "parts", "precision")
    )
    align, accelerator, saving = of["align"], of["accelerator"], of["saving"]
    voice, imported, prepare, reading, startup, watching = (
        of[name] for name in ("voice", "import", "prepare", "input", "startup", "watching")
    )
    of_the_step = (step, compiled, parts, saving)
    for kind in (*of_the_step, precision, accelerator, voice, imported, startup, watching):
        high = "high" if kind is imported else "medium"
        kind.add_argument("--quality", choices=preset_names(), default=high)
    for kind in (*of_the_step, precision, voice, imported):
        kind.add_argument("--speakers", type=int, default=1)
    for kind in (*of_the_step, precision):
        kind.add_argument("--batch-size", type=int, default=8)
        kind.add_argument("--phonemes", type=int, default=120, help="phoneme ids per utterance")
        kind.add_argument("--frames", type=int, default=400, help="frames per utterance")
        kind.add_argument("--use-mrd", action="store_true", help="discriminators of spectra too")
    for kind in (*of_the_step, startup, watching):
        kind.add_argument("--precision", choices=list(PRECISIONS), default="auto")
    for kind in (step, saving):
        kind.add_argument("--cache", action="store_true", help="use the compilation cache")
    for kind in kinds.choices.values():
        kind.add_argument("--json", metavar="FILE", help="write the figures here too")

    add = step.add_argument
    add("--steps", type=int, default=5, help="timed steps, after one to warm up")
    add("--peer", action="store_true", help="alternate with Piper's PyTorch step")
    add("--freeze", metavar="PARTS", help="alternate with the step that holds these parts")
    add("--sweep", type=_sizes, metavar="8,16,32", help="at these batch sizes, while memory lasts")

    add = compiled.add_argument
    add("--target", help="v5e:2x2, v4:2x2x1, h100, h100x4 … (default: the devices here)")
    add("--full-effort", action="store_true", help="TPU: compile as for a run, not faster")
    add("--hlo", metavar="FILE", help="write the compiled program here")

    for kind in (parts, align):
        kind.add_argument("--steps", type=int, default=5, help="timed runs, after one to warm up")

    add = align.add_argument
    add("--batch-size", type=int, default=32)
    add("--phonemes", type=int, default=300, help="phoneme ids per utterance")
    add("--frames", type=int, default=1000, help="frames per utterance")
    add("--target", help="only compile, for v5e:2x2, h100 … (default: the devices here)")

    add = accelerator.add_argument
    add(
        "--out", type=Path, required=True, metavar="DIR", help="for the figures; run again to go on"
    )
    add("--batch-sizes", type=_sizes, default=[16, 32, 64], metavar="16,32,64")
    add("--peer", action="store_true", help="alternate with Piper's PyTorch step")
    add("--minutes", type=float, default=8.5, help="for all of it")

    add = startup.add_argument
    add("--batch-size", type=int, default=8)
    add("--num-buckets", type=int, default=1, help="shapes; the first step waits for one of them")
    add("--minutes", type=float, default=3.0, help="of synthetic speech")
    add("--directory", type=Path, help="to work in, emptied after (default: a temporary one)")

    add = watching.add_argument
    add("--batch-size", type=int, default=32)
    add("--num-buckets", type=int, default=4)
    add("--minutes", type=float, default=60.0, help="of synthetic speech: an epoch")
    add("--train-minutes", type=int, default=30, help="compiling and two looks included")
    add("--directory", type=Path, help="to work in, emptied after (default: a temporary one)")

    add = saving.add_argument
    add("--saves", type=int, default=3, help="timed saves")
    add("--directory", type=Path, help="where to save (default: a temporary one)")

    add = voice.add_argument
    add("--plain", action="store_true", help="plain durations, not stochastic")
    add("--seconds", type=float, default=10.0, help="length of what is spoken")
    add("--runs", type=int, default=9, help="timed runs, after one to warm up")
    add("--threads", type=int, default=0, help="of onnxruntime (0: all cores)")
    add("--peer", action="store_true", help="alternate with Piper's own export")

    add = imported.add_argument
    add("--peer", action="store_true", help="torch.load alone, in between")
    add("--repeats", type=int, default=3, help="imports, of which the median")

    add = prepare.add_argument
    add("--hours", type=float, default=50.0, help="of synthetic speech")
    add("--sample-rate", type=int, default=22050)
    add("--max-workers", type=int, help="of preprocess (default: its own)")
    add("--no-trim", action="store_true", help="keep the silence")
    add("--train", action="store_true", help="then train for two steps")
    add("--directory", type=Path, help="to work in, emptied after (default: a temporary one)")

    add = reading.add_argument
    add(
        "--dataset-dir", type=Path, metavar="DIR", help="that preprocess wrote (default: synthetic)"
    )
    add("--hours", type=float, default=1.0, help="of synthetic speech")
    add("--directory", type=Path, help="to write it in (default: a temporary one)")
    add("--batch-size", type=int, default=32)
    add("--num-buckets", type=int, default=4)
    add("--batches", type=int, default=50, help="timed, three times each")
    add("--step-ms", type=float, default=100.0, help="time of the step that they are wanted for")
    return parser


def _sizes(text: str) -> list[int]:
    """``8,16,32``"""
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: expected batch sizes, such as 8,16,32")
    return [int(word) for word in words]


class _Benchmark(Parser):
    """A subcommand's; argparse makes it."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, more.get("help", ""), prefix="")
