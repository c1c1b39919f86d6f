"""Time and memory of importing a Piper checkpoint (``benchmark import``).

The checkpoint is written for the purpose: all tensors of a preset and their moments, random.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.checkpoints.piper.ckpt_file import write_ckpt
from vits_jax.checkpoints.piper.writing import to_ckpt
from vits_jax.checkpoints.store import Metadata
from vits_jax.config import Config
from vits_jax.model.networks import parameter_shapes
from vits_jax.state import Position, TrainState

_PEER = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True)"


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Import in processes of their own, as the command does, start to end."""
    seconds, peer_seconds = [], []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "piper.ckpt"
        write_ckpt(
            to_ckpt(_random_state(config), Metadata(config, Position(1000, 1), {}, {})), path
        )
        file_bytes = path.stat().st_size
        tool = [sys.executable, "-m", "vits_jax.commands", "import-torch"]
        for number in range(args.repeats):
            output = Path(name) / f"imported-{number}"
            seconds.append(_run(*tool, str(path), str(output)))
        # The largest of the children so far: the imports', as the peers come after.
        peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        for _ in range(args.repeats if args.peer else 0):
            peer_seconds.append(_run(sys.executable, "-c", _PEER, str(path)))
    return {
        "quality": args.quality,
        "import_seconds": float(np.median(seconds)),
        "peer_import_seconds": float(np.median(peer_seconds)) if peer_seconds else None,
        "peak_bytes": peak_bytes,
        "file_bytes": file_bytes,
        "peak_to_file": peak_bytes / file_bytes,
        "all_import_seconds": seconds,
    }


def _run(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def _random_state(config: Config) -> TrainState:
    rng = np.random.default_rng(0)

    def arrays() -> dict[str, dict[str, np.ndarray]]:
        return {
            network: {n: rng.random(shape, np.float32) for n, shape in shapes.items()}
            for network, shapes in parameter_shapes(config).items()
        }

    params, mu, nu = arrays(), arrays(), arrays()
    count = np.array(1000, np.int32)
    optimizer = {n: {"count": count, "mu": mu[n], "nu": nu[n]} for n in params}
    return TrainState(count, params, optimizer)
