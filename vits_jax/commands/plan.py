"""``vits-jax plan``: what a run would do, without doing it.

    vits-jax plan --dataset-dir DATA --quality medium --batch-size 32 --json plan.json
    vits-jax plan --dataset-dir DATA --quality medium --batch-size 32 --warm-cache

    vits-jax plan --topology v5e:2x4 --quality medium --batch-size 128 --hours 24 --price 1.2

It takes the flags of ``train``, and tells shapes, padding, steps and memory. ``--warm-cache``
compiles what that run would, for the devices that are here: it then finds all in the cache.
``--topology`` compiles the step for chips that are not here, and tells what it would take of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vits_jax.cli import Parser, run
from vits_jax.commands.train import make_parser as make_train_parser
from vits_jax.commands.train import of_flags
from vits_jax.errors import UserError
from vits_jax.flag_types import convert


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = vars(make_parser().parse(argv))
    warm, file = flags.pop("warm_cache"), flags.pop("json", None)
    asked = {name: flags.pop(name) for name in _ELSEWHERE if name in flags}
    if "topology" in asked and "price" in flags:
        asked["price"] = convert(flags.pop("price"), float, "--price")
    if "topology" in asked:
        _topology(asked, flags, file)
        return
    if asked:
        raise UserError(f"--{next(iter(asked))}: expected --topology with it")
    config, given = of_flags(flags)
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.compilation import use_cache
    from vits_jax.training import plan

    use_cache()  # before anything is compiled; it also knows what steps take
    prepared = plan.look(config, given)
    figures = plan.figures(prepared)
    print(_shown(figures))
    if warm:
        warmed = plan.warm(prepared)
        figures = plan.figures(prepared) | {"programs": warmed._asdict()}
        print(_of_shapes(figures))
        print(
            f"programs: {warmed.found} were in the cache, {warmed.kept} compiled and kept, "
            f"in {warmed.seconds:.1f} s"
        )
    if file is not None:
        Path(file).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def make_parser() -> Parser:
    """Of its flags, beside those of ``train``."""
    parser = make_train_parser(
        "plan", "Say what train would do with these flags, without doing it."
    )
    own = parser.add_argument_group("plan")
    own.add_argument(
        "--warm-cache", action="store_true", help="compile all of it, for the cache of programs"
    )
    own.add_argument(
        "--json", default=argparse.SUPPRESS, metavar="FILE", help="write the figures here too"
    )
    elsewhere = parser.add_argument_group("plan for chips that are not here")
    elsewhere.add_argument(
        "--topology", default=argparse.SUPPRESS, help="v5e:2x4, v4:2x2x1, h100x4, a100 …"
    )
    for name, default, about in (
        ("--phonemes", 150, "phoneme ids of every utterance"),
        ("--frames", 600, "frames of every utterance"),
    ):
        elsewhere.add_argument(
            name, type=int, default=argparse.SUPPRESS, help=f"{about} (default: {default})"
        )
    elsewhere.add_argument(
        "--hours", type=float, default=argparse.SUPPRESS, help="of speech, for the time of an epoch"
    )
    elsewhere.add_argument(
        "--largest",
        action="store_true",
        default=argparse.SUPPRESS,
        help="look for the largest batch, too: compiles once more",
    )
    return parser


_ELSEWHERE = ("topology", "phonemes", "frames", "hours", "largest")


def _topology(asked: dict[str, Any], flags: dict[str, Any], file: str | None) -> None:
    if "price" in asked and "hours" not in asked:
        raise UserError("--price: expected --hours with it, of speech in an epoch")
    config, _ = of_flags({"dataset_dir": _NO_DATA} | flags)  # shapes are all that counts
    from vits_jax.benchmarks import slices

    figures = slices.figures(config, **{"phonemes": 150, "frames": 600} | asked)
    print(_shown_elsewhere(figures))
    if file is not None:
        Path(file).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


_NO_DATA = "(none)"


def _shown_elsewhere(figures: dict[str, Any]) -> str:
    times = figures["seconds_at_peaks"]
    lines = [
        f"chips: {figures['chips']} of {figures['topology']}, precision {figures['precision']}; "
        f"{figures['batch_size']} rows x {figures['phonemes']} phonemes x {figures['frames']} "
        "frames over all of them",
        f"memory of a chip: {_gigabytes(figures['peak_bytes_per_chip'])} of "
        f"{_gigabytes(figures['chip_bytes'])}",
        f"a step, of each chip: {figures['gflop_per_chip']:.0f} GFLOP, "
        f"{_gigabytes(figures['bytes_per_chip'])} of memory traffic; over the links: "
        f"{figures['all_reduce_bytes'] / 1e6:.1f} MB all-reduced, "
        f"{figures['all_gather_bytes'] / 1e6:.1f} MB all-gathered",
        f"time of a step at the peaks: {1e3 * figures['step_seconds_at_peaks']:.1f} ms or more "
        f"(arithmetic {1e3 * times['compute']:.1f}, memory {1e3 * times['memory']:.1f}, "
        f"all-reduce {1e3 * times['all_reduce']:.1f}: "
        f"{100 * figures['all_reduce_share']:.1f} % of it)",
        f"compiled in {figures['compile_seconds']:.0f} s",
    ]
    if "steps_per_epoch" in figures:
        cost = figures.get("epoch_cost_at_peaks")
        lines.append(
            f"epoch: {figures['steps_per_epoch']} steps, "
            f"{figures['epoch_seconds_at_peaks']:.1f} s or more"
            + ("" if cost is None else f", for {cost:.2f} or more")
        )
    if "largest_batch_size" in figures:
        lines.append(f"largest batch: about {figures['largest_batch_size']} rows")
    return "\n".join(lines)


def _shown(figures: dict[str, Any]) -> str:
    end = figures["end"]
    hours, has = figures["speech_seconds"] / 3600, figures["device_bytes"]
    lines = [
        f"utterances: {figures['train']} to train on, {figures['validation']} to validate on, "
        f"{figures['test']} to speak; {hours:.2f} h in all; {figures['left_out']} left out",
        f"devices: {figures['devices']} x {figures['device']}, precision {figures['precision']}"
        + ("" if has is None else f", {_gigabytes(has)} of memory"),
        f"epoch: {figures['trained_per_epoch']} steps"
        + (
            ""
            if figures["trained_per_epoch"] == figures["batches_per_epoch"]
            else f" of {figures['batches_per_epoch']}"
        )
        + f"; padding: {100 * figures['padding']:.1f} % of the frames, "
        f"{100 * figures['phoneme_padding']:.1f} % of the phonemes",
        f"run: from step {figures['step']}, epoch {figures['epoch']}, "
        + ("without end" if end is None else f"to step {end}"),
        *_of_speakers(figures["speakers"]),
        _of_shapes(figures),
    ]
    return "\n".join(lines)


def _of_speakers(speakers: list[dict[str, Any]]) -> list[str]:
    if len(speakers) == 1:
        return []
    from vits_jax.data.batching.speaker_weights import InAnEpoch, shown

    return ["speakers: " + shown([InAnEpoch(**speaker) for speaker in speakers])]


def _of_shapes(figures: dict[str, Any]) -> str:
    lines = [f"shapes to compile: {len(figures['shapes'])}"]
    for shape in figures["shapes"]:
        size = shape["bytes"]
        takes = "memory told when compiled" if size is None else _gigabytes(size)
        lines.append(
            f"  {shape['rows']} rows x {shape['phonemes']} phonemes x {shape['frames']} frames: "
            f"{shape['batches']} batches an epoch, {takes}"
        )
    return "\n".join(lines)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
