"""What looking at a run costs of its time (``benchmark watching``).

The command itself, in a process of its own, with everything at its default: how often it
validates, the spoken examples, reconstructions, pictures, metrics of speech, verdict, page,
loggers, saving. The corpus is synthetic, lengths as LJ Speech has them. The first two looks, of
which the first waits for the compiler, do not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.benchmarks.reading import like_lj_speech, write_speech
from vits_jax.config import Config
from vits_jax.errors import RunFailed
from vits_jax.training import journal


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Train for some time; seconds of each kind of looking at a look, and their share of it all."""
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name)
        dataset, run_dir = directory / "data", directory / "run"
        dataset.mkdir()
        hours, minutes = divmod(args.train_minutes, 60)
        write_speech(dataset, like_lj_speech(), 60 * args.minutes)
        flags = {
            "dataset-dir": dataset,
            "run-dir": run_dir,
            "quality": args.quality,
            "precision": config.run.precision,
            "batch-size": args.batch_size,
            "num-buckets": args.num_buckets,
            "max-epochs": -1,
            "max-steps": -1,
            "max-time": f"00:{hours:02}:{minutes:02}:00",
            # A preset may say otherwise than the defaults, which are what is measured.
            "check-val-every-n-epoch": "",
            "checkpoint-epochs": "",
        }
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        ended = subprocess.run(
            [sys.executable, "-m", "vits_jax.train", *words],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ},
        )
        if ended.returncode:
            raise RunFailed(f"the run ended with {ended.returncode}: {ended.stderr[-500:]}")
        history = journal.history(journal.read(run_dir))
    return {
        "quality": args.quality,
        "batch_size": args.batch_size,
        "minutes": args.minutes,
        **figures(history),
    }


def figures(history: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
    """Of a run's numbers: how many looks count, steps between them, shares, seconds of each kind.

    Raises:
        RunFailed: there were less than three looks.
    """
    shares = history.get("looking/share", [])[1:]
    if not shares:
        raise RunFailed(
            "the run was looked at less than three times: train longer (--train-minutes)"
        )
    kinds = {name: points for name, points in history.items() if name.startswith("looking/")}
    seconds = {
        name.removeprefix("looking/"): [dict(points).get(step, 0.0) for step, _ in shares]
        for name, points in kinds.items()
        if name != "looking/share"
    }
    looking = np.sum(list(seconds.values()), axis=0)
    whole = looking / np.array([share for _, share in shares])
    return {
        "looks": len(shares),
        "steps_between": float(np.mean(np.diff([step for step, _ in history["looking/share"]]))),
        "share": float(looking.sum() / whole.sum()),
        "share_without_saving": float(
            (looking - np.array(seconds.get("saving", np.zeros_like(looking)))).sum() / whole.sum()
        ),
        "seconds": {name: float(np.mean(values)) for name, values in seconds.items()},
    }
