"""The training step on random data, beside Piper's (``benchmark step``)."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vits_jax.benchmarks.floor import floor
from vits_jax.chips import chip_of
from vits_jax.compilation import use_cache
from vits_jax.config import Config
from vits_jax.model.parts import check_frozen
from vits_jax.model.precision import chosen
from vits_jax.programs import Programs
from vits_jax.state import create_state
from vits_jax.training.mesh import formats, make_mesh, put_rows, replicated
from vits_jax.training.step import make_train_step


def random_batch(config: Config, rows: int, phonemes: int, frames: int) -> dict[str, np.ndarray]:
    """Full-length rows of noise, as `load_batch` makes them."""
    rng = np.random.default_rng(0)
    samples = frames * config.audio.hop_length
    return {
        "phoneme_ids": rng.integers(0, config.model.num_symbols, (rows, phonemes), np.int32),
        "phoneme_lengths": np.full(rows, phonemes, np.int32),
        "audio": rng.integers(-16384, 16384, (rows, samples), np.int16),
        "audio_lengths": np.full(rows, samples, np.int32),
        "speaker_ids": np.zeros(rows, np.int32),
        "weight": np.ones(rows, np.float32),
    }


@contextlib.contextmanager
def peer_process(config: Config, args: argparse.Namespace) -> Iterator[Any]:
    """Piper's step in a process of its own; yields a function that runs one and times it.

    Of ``"memory"`` it tells the most bytes so far.

    Raises:
        SystemExit: PyTorch or Piper is not installed.
    """
    request = {
        "model": config.to_dict()["model"],
        "audio": config.to_dict()["audio"],
        "sizes": {"batch": args.batch_size, "phonemes": args.phonemes, "frames": args.frames},
        "precision": chosen(args.precision, jax.default_backend()),
    }
    command = [sys.executable, str(Path(__file__).with_name("piper_step.py"))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(line: str) -> str:
            print(line, file=stdin, flush=True)
            return stdout.readline().strip()

        if ask(json.dumps(request)) != "ready":
            raise SystemExit("the peer did not start: it needs the extra [test] (see above)")
        yield lambda what="step": float(ask(what))
        stdin.close()


class Step:
    """The training step on random data that is already on the device: both networks, both updates.

    Calling it runs one to its end and tells its seconds. ``flops`` are each device's, ``metrics``
    those of the last step.
    """

    metrics: dict[str, jax.Array]

    def __init__(self, args: argparse.Namespace, config: Config):
        if args.cache:
            use_cache()
        mesh = make_mesh()
        batch = random_batch(config, args.batch_size, args.phonemes, args.frames)
        self._batch = put_rows(batch, mesh)
        init = jax.jit(lambda key: create_state(config, key), out_shardings=replicated(mesh))
        state = init(jax.random.key(0))
        self.mesh, self.state = mesh, jax.device_put(state, formats(state, mesh))
        o = config.optimizer
        rates = {"learning_rate": o.learning_rate, "learning_rate_d": o.learning_rate_d}
        self._rates = jax.device_put(
            {k: jnp.float32(v) for k, v in rates.items()}, replicated(mesh)
        )
        shape = (args.batch_size, args.phonemes, args.frames)
        start = time.perf_counter()
        step = make_train_step(config, mesh)
        self._programs = Programs(step, "training step", devices=mesh.size, keep_pieces=True)
        self._shape = shape
        self._programs.ahead(shape, self.state, self._batch, self._rates)
        self._programs.ready(shape)
        self.compile_seconds = time.perf_counter() - start
        traced = self._programs.pieces(shape)
        self.flops = sum(c.flops for c in floor(*(p.traced.jaxpr for p in traced)).values())
        self.needs = self._programs.needs(shape)

    def __call__(self) -> float:
        start = time.perf_counter()
        self.state, metrics = self._programs(self._shape, self.state, self._batch, self._rates)
        self.metrics = jax.block_until_ready((self.state, metrics))[1]
        return time.perf_counter() - start


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Time whole training steps; with ``--sweep`` at several batch sizes, as far as memory goes."""
    if args.peer:  # or JAX takes three quarters of a GPU's memory at once, and the peer finds none
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if not args.sweep:
        return _measured(args, config)
    sizes: dict[str, Any] = {}
    for size in args.sweep:
        own = argparse.Namespace(**vars(args) | {"batch_size": size})
        try:
            sizes[str(size)] = _measured(own, config)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sizes[str(size)] = {"out_of_memory": True}
            break
    best = max(sizes.values(), key=lambda figures: figures.get("utterances_per_second", 0.0))
    return best | {"sweep": sizes}


def _measured(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """At one batch size."""
    ours = Step(args, config)
    mesh = ours.mesh
    ours()
    frozen = _frozen(args, config)
    frozen_seconds: list[float] = []
    seconds: list[float] = []
    peer_seconds: list[float] = []
    peer = peer_process(config, args) if args.peer else contextlib.nullcontext()
    with peer as theirs:
        for _ in range(args.steps):
            seconds.append(ours())
            if frozen is not None:
                frozen_seconds.append(frozen())
            if theirs is not None:
                peer_seconds.append(theirs())
        peer_peak = int(theirs("memory")) if theirs is not None else None
    device = mesh.devices.flat[0]
    stats = device.memory_stats() or {}
    chip = chip_of(device)
    median = statistics.median(seconds)
    return {
        "device": device.device_kind,
        "devices": mesh.size,
        "quality": args.quality,
        "precision": chosen(args.precision, device.platform),
        "batch_size": args.batch_size,
        "phonemes": args.phonemes,
        "frames": args.frames,
        "step_seconds": median,
        "peer_step_seconds": statistics.median(peer_seconds) if peer_seconds else None,
        "utterances_per_second": args.batch_size / median,
        "compile_seconds": ours.compile_seconds,
        "gflop_per_step": mesh.size * ours.flops / 1e9,
        # Of the chip's bfloat16 peak, whatever the precision.
        "mfu": ours.flops / median / chip.flops if chip else None,
        # Where the allocator counts (GPU, TPU) what it saw, else what the compiler planned.
        "peak_bytes": stats.get("peak_bytes_in_use", ours.needs.bytes if ours.needs else None),
        "peer_peak_bytes": peer_peak,
        **_saved(ours, frozen, seconds, frozen_seconds),
        "all_step_seconds": seconds,
        "all_peer_step_seconds": peer_seconds,
    }


def _frozen(args: argparse.Namespace, config: Config) -> Step | None:
    """The step of a model of which ``--freeze`` holds parts, to take turns with the whole one's."""
    if not args.freeze:
        return None
    held = config.replaced({"freeze": tuple(args.freeze.split(","))})
    check_frozen(held)
    step = Step(args, held)
    step()
    return step


def _saved(
    whole: Step, frozen: Step | None, seconds: Sequence[float], frozen_seconds: Sequence[float]
) -> dict[str, Any]:
    if frozen is None:
        return {}

    def state(step: Step) -> int:
        return sum(array.nbytes for array in jax.tree.leaves(step.state))

    needs, frozen_needs = whole.needs, frozen.needs
    return {
        "frozen_step_seconds": statistics.median(frozen_seconds),
        "frozen_share_of_seconds": statistics.median(frozen_seconds) / statistics.median(seconds),
        "frozen_gflop_per_step": frozen.mesh.size * frozen.flops / 1e9,
        "state_bytes": state(whole),
        "frozen_state_bytes": state(frozen),
        "needed_bytes": needs.bytes if needs else None,
        "frozen_needed_bytes": frozen_needs.bytes if frozen_needs else None,
    }
