"""How long a run takes to its first step, and where that time goes (``benchmark startup``).

The command itself, in a process of its own: with an empty cache of programs, and then with what
that one left there. The corpus is synthetic, lengths as LJ Speech has them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vits_jax.benchmarks.reading import like_lj_speech, write_speech
from vits_jax.config import Config
from vits_jax.errors import RunFailed
from vits_jax.training.timeline import parse

STARTS = ("cold", "cached")


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Start twice; ``cold_seconds`` and ``cached_seconds``, and each part's."""
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name)
        dataset, cache = directory / "data", directory / "cache"
        dataset.mkdir()
        write_speech(dataset, like_lj_speech(), 60 * args.minutes)
        result: dict[str, Any] = {
            "quality": args.quality,
            "precision": config.run.precision,
            "batch_size": args.batch_size,
            "num_buckets": args.num_buckets,
        }
        parts: dict[str, dict[str, float]] = {}
        for start in STARTS:
            flags = {
                "dataset-dir": dataset,
                "run-dir": directory / start,
                "quality": args.quality,
                "precision": config.run.precision,
                "batch-size": args.batch_size,
                "num-buckets": args.num_buckets,
                "max-steps": 1,
            }
            words = [f"--{flag}={value}" for flag, value in flags.items()]
            seconds, found = _first_step(words, cache)
            result[f"{start}_seconds"] = seconds
            for part, of_it in found.items():
                parts.setdefault(part, {})[start] = of_it
        kept = [path for path in cache.rglob("*-cache") if path.is_file()]
        return result | {
            "programs": len(kept),
            "program_bytes": sum(path.stat().st_size for path in kept),
            "parts": parts,
        }


def _first_step(words: list[str], cache: Path) -> tuple[float, dict[str, float]]:
    """What a run with these flags says about its start.

    Raises:
        RunFailed: it came to no step.
    """
    others = {n: v for n, v in os.environ.items() if n != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-m", "vits_jax.train", *words],
        env=others | {"XDG_CACHE_HOME": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    told = parse(done.stderr)
    if told is None or done.returncode:
        last = (done.stderr.splitlines() or [""])[-1]
        raise RunFailed(f"train ended with exit code {done.returncode}: {last}")
    return told
