"""What looking at a run costs of its time (``benchmark watching``).

The command itself, in a process of its own, with everything at its default: validation, the
spoken examples, reconstructions, pictures, metrics of speech, verdict, page, loggers, saving. The
corpus is synthetic, lengths as LJ Speech has them. The first epoch compiles and does not count.
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
    """Train some epochs; seconds of each kind of looking an epoch, and their share of it."""
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name)
        dataset, run_dir = directory / "data", directory / "run"
        dataset.mkdir()
        write_speech(dataset, like_lj_speech(), 60 * args.minutes)
        flags = {
            "dataset-dir": dataset,
            "run-dir": run_dir,
            "quality": args.quality,
            "precision": config.run.precision,
            "batch-size": args.batch_size,
            "num-buckets": args.num_buckets,
            "max-epochs": 1 + args.epochs,
            "max-steps": -1,
            "check-val-every-n-epoch": 1,
            "checkpoint-epochs": 1,
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
    counted = history["looking/share"][-args.epochs :]
    kinds = {name: points for name, points in history.items() if name.startswith("looking/")}
    steps = {step for step, _ in counted}
    return {
        "quality": args.quality,
        "batch_size": args.batch_size,
        "minutes": args.minutes,
        "epochs": len(counted),
        "share": float(np.mean([share for _, share in counted])),
        "seconds": {
            name.removeprefix("looking/"): float(
                np.mean([s for step, s in points if step in steps])
            )
            for name, points in kinds.items()
            if name != "looking/share" and any(step in steps for step, _ in points)
        },
    }
