#!/usr/bin/env python3
"""Measure vits_jax, side by side with the alternative in one run.

python tools/benchmark.py step --quality medium --batch-size 8 --phonemes 120 --frames 400 \
    --steps 5 --peer --json step.json
python tools/benchmark.py voice --quality medium --peer --json voice.json
python tools/benchmark.py import --quality high --peer --json import.json
python tools/benchmark.py saving --quality medium --batch-size 4
python tools/benchmark.py prepare --hours 50 --train --json prepare.json

Machines are shared and noisy: the two sides take turns, and the ratio of the medians counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools import benchmark_import, benchmark_prepare, benchmark_saving, benchmark_voice
from vits_jax.compilation import no_garbage_collection, use_cache
from vits_jax.config import FIELDS, Config, convert, read_yaml
from vits_jax.presets import preset_names, preset_path
from vits_jax.state import create_state
from vits_jax.training.mesh import make_mesh, put_rows, replicated
from vits_jax.training.step import make_train_step


def preset(name: str, **overrides: Any) -> Config:
    """The configuration that `--quality` stands for."""
    values = read_yaml(preset_path(name)) | overrides
    return Config().replaced({k: convert(v, FIELDS[k].type, k) for k, v in values.items()})


def random_batch(config: Config, rows: int, phonemes: int, frames: int) -> dict[str, np.ndarray]:
    """Full-length rows of noise, as the host sends them."""
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
    """Piper's step in a process of its own; yields a function that runs one and times it."""
    request = {
        "model": config.to_dict()["model"],
        "audio": config.to_dict()["audio"],
        "sizes": {"batch": args.batch_size, "phonemes": args.phonemes, "frames": args.frames},
        "precision": args.precision,
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
        yield lambda: float(ask("step"))
        stdin.close()


class Step:
    """The training step on random data that is already on the device: both networks, both updates.

    Calling it runs one to its end and tells its seconds.
    """

    def __init__(self, args: argparse.Namespace, config: Config):
        if args.cache:
            use_cache()
        mesh = make_mesh()
        batch = random_batch(config, args.batch_size, args.phonemes, args.frames)
        self._batch = put_rows(batch, mesh)
        init = jax.jit(lambda key: create_state(config, key), out_shardings=replicated(mesh))
        self.mesh, self.state = mesh, init(jax.random.key(0))
        o = config.optimizer
        rates = {"learning_rate": o.learning_rate, "learning_rate_d": o.learning_rate_d}
        self._rates = jax.device_put(
            {k: jnp.float32(v) for k, v in rates.items()}, replicated(mesh)
        )
        start = time.perf_counter()
        with no_garbage_collection():
            step = make_train_step(config, mesh)
            lowered = step.lower(self.state, self._batch, self._rates)
        self.compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> float:
        start = time.perf_counter()
        self.state, metrics = self.compiled(self.state, self._batch, self._rates)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


def benchmark_step(args: argparse.Namespace) -> dict[str, Any]:
    """Time whole training steps."""
    config = preset(args.quality, num_speakers=args.speakers)
    ours = Step(args, config)
    mesh = ours.mesh
    cost, memory = ours.compiled.cost_analysis() or {}, ours.compiled.memory_analysis()
    ours()
    seconds: list[float] = []
    peer_seconds: list[float] = []
    peer = peer_process(config, args) if args.peer else contextlib.nullcontext()
    with peer as theirs:
        for _ in range(args.steps):
            seconds.append(ours())
            if theirs is not None:
                peer_seconds.append(theirs())
    stats = mesh.devices.flat[0].memory_stats() or {}
    return {
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "quality": args.quality,
        "precision": args.precision,
        "batch_size": args.batch_size,
        "phonemes": args.phonemes,
        "frames": args.frames,
        "step_seconds": statistics.median(seconds),
        "peer_step_seconds": statistics.median(peer_seconds) if peer_seconds else None,
        "compile_seconds": ours.compile_seconds,
        "gflop_per_step": cost.get("flops", float("nan")) / 1e9,
        # Where the allocator counts (GPU, TPU) what it saw, else what the compiler planned.
        "peak_bytes": stats.get("peak_bytes_in_use", getattr(memory, "peak_memory_in_bytes", None)),
        "all_step_seconds": seconds,
        "all_peer_step_seconds": peer_seconds,
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("step", help="the training step on random data")
    training.add_argument("--steps", type=int, default=5, help="timed steps, after one to warm up")
    training.add_argument("--peer", action="store_true", help="alternate with Piper's PyTorch step")
    saving = commands.add_parser("saving", help="what saving costs beside the training step")
    benchmark_saving.add_arguments(saving)
    for command in (training, saving):
        command.add_argument("--quality", choices=preset_names(), default="medium")
        command.add_argument("--batch-size", type=int, default=8)
        command.add_argument("--phonemes", type=int, default=120, help="phoneme ids per utterance")
        command.add_argument("--frames", type=int, default=400, help="frames per utterance")
        command.add_argument("--speakers", type=int, default=1)
        command.add_argument("--precision", choices=["32"], default="32")
        command.add_argument("--cache", action="store_true", help="use the compilation cache")
        command.add_argument("--json", metavar="FILE", help="write the figures here too")
    voice = commands.add_parser("voice", help="the exported voice in onnxruntime")
    benchmark_voice.add_arguments(voice, preset_names())
    imported = commands.add_parser("import", help="importing a Piper checkpoint")
    benchmark_import.add_arguments(imported, preset_names())
    prepare = commands.add_parser("prepare", help="preparing a corpus of synthetic speech")
    benchmark_prepare.add_arguments(prepare)
    args = parser.parse_args()

    if args.command == "step":
        result, measured = benchmark_step(args), "step_seconds"
    elif args.command == "saving":
        config = preset(args.quality, num_speakers=args.speakers)
        step = Step(args, config)
        result = benchmark_saving.benchmark(args, config, step, lambda: step.state)
        measured = "save_seconds"
    elif args.command == "prepare":
        result, measured = benchmark_prepare.benchmark(args), "prepare_seconds"
    elif args.command == "import":
        config = preset(args.quality, num_speakers=args.speakers)
        result, measured = benchmark_import.benchmark(args, config), "import_seconds"
    else:
        config = preset(args.quality, num_speakers=args.speakers, use_sdp=not args.plain)
        result, measured = benchmark_voice.benchmark(args, config), "rtf"
    for name, value in result.items():
        print(f"{name:24s} {value}")
    if result[f"peer_{measured}"]:
        ratio = result[measured] / result[f"peer_{measured}"]
        print(f"{'ratio to the peer':24s} {ratio:.3f}")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
