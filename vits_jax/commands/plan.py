"""``vits-jax plan``: what a run would do, without doing it.

    vits-jax plan --dataset-dir DATA --quality medium --batch-size 32 --json plan.json
    vits-jax plan --dataset-dir DATA --quality medium --batch-size 32 --warm-cache

It takes the flags of ``train``, and tells shapes, padding, steps and memory. ``--warm-cache``
compiles what that run would, for the devices that are here: it then finds all in the cache.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vits_jax.cli import run
from vits_jax.commands.train import make_parser, of_flags


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = make_parser("plan", "Say what train would do with these flags, without doing it.")
    own = parser.add_argument_group("plan")
    own.add_argument(
        "--warm-cache", action="store_true", help="compile all of it, for the cache of programs"
    )
    own.add_argument(
        "--json", default=argparse.SUPPRESS, metavar="FILE", help="write the figures here too"
    )
    flags = vars(parser.parse(argv))
    warm, file = flags.pop("warm_cache"), flags.pop("json", None)
    config, given = of_flags(flags)
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.compilation import use_cache
    from vits_jax.training import plan

    if warm:
        use_cache()  # before anything is compiled
    prepared = plan.look(config, given)
    figures = plan.figures(prepared)
    print(_shown(figures))
    if warm:
        warmed = plan.warm(prepared)
        figures["programs"] = warmed._asdict()
        print(
            f"programs: {warmed.found} were in the cache, {warmed.kept} compiled and kept, "
            f"in {warmed.seconds:.1f} s"
        )
    if file is not None:
        Path(file).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


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
        f"shapes to compile: {len(figures['shapes'])}",
    ]
    about = "about" if figures["precision"] == "32" else "at most"  # it was measured in float32
    for shape in figures["shapes"]:
        size = shape["bytes"]
        takes = "memory not known before" if size is None else f"{about} {_gigabytes(size)}"
        lines.append(
            f"  {shape['rows']} rows x {shape['phonemes']} phonemes x {shape['frames']} frames: "
            f"{shape['batches']} batches an epoch, {takes}"
        )
    return "\n".join(lines)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
