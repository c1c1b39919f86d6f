"""What saving costs a run: steps with a checkpoint being written beside, and without."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vits_jax.benchmarks.training_step import Step
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.store import Metadata
from vits_jax.config import Config
from vits_jax.state import Position
from vits_jax.training.outputs import OF_AN_EPOCH


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Time so many steps alone, then as many that begin with a save, in turns."""
    step = Step(args, config)
    metadata = Metadata(config, Position(), dataset={}, plan={})
    step()
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        checkpoints = Checkpoints(Path(directory), Keep(newest=1, best=0))
        alone, beside, blocking = [], [], []
        for number in range(args.saves):
            start = time.perf_counter()
            checkpoints.save(number, step.state.to_dict(), metadata)
            blocked = time.perf_counter() - start
            steps, written = 0, time.perf_counter()
            while steps < 2 or not checkpoints.saved():
                step()
                steps += 1
            beside.append(blocked + time.perf_counter() - written)
            blocking.append(blocked)
            alone.append(sum(step() for _ in range(steps)))
        checkpoints.close()
        (saved,) = (Path(directory) / "checkpoints").iterdir()
        written_bytes = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    cost = _median_difference(beside, alone)
    minutes = config.run.checkpoint_minutes * OF_AN_EPOCH
    return {
        "bytes": written_bytes,
        "blocking_seconds": statistics.median(blocking),
        "save_seconds": cost,
        "peer_save_seconds": None,
        "least_minutes_between_saves": minutes,
        "share_of_the_run": cost / (60 * minutes),
        "all_seconds_with_a_save": beside,
        "all_seconds_of_the_same_steps_alone": alone,
    }


def _median_difference(a: Sequence[float], b: Sequence[float]) -> float:
    return statistics.median(x - y for x, y in zip(a, b, strict=True))
