"""The training step compiled for chips that need not be here (``benchmark compiled``).

Says what a clock cannot, and without a chip: bytes, operations by kind, peak of memory,
collectives, part by part, beside the least that the step could cost.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vits_jax.benchmarks.floor import PARTS, Cost, floor, part_of
from vits_jax.benchmarks.hlo import Operation, operations
from vits_jax.chips import Chip, chip_of, described
from vits_jax.config import Config
from vits_jax.model.networks import parameter_shapes
from vits_jax.model.precision import chosen
from vits_jax.state import abstract_state
from vits_jax.training.mesh import by_row, formats, replicated
from vits_jax.training.step import make_train_step

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def abstract_batch(config: Config, mesh: Mesh, size: int, phonemes: int, frames: int) -> Any:
    """Shapes of `size` rows over the mesh, as `data.batching` makes them."""

    def array(kind: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *shape), kind, sharding=by_row(mesh))

    return {
        "phoneme_ids": array(jnp.int32, phonemes),
        "phoneme_lengths": array(jnp.int32),
        "audio": array(jnp.int16, frames * config.audio.hop_length),
        "audio_lengths": array(jnp.int32),
        "speaker_ids": array(jnp.int32),
        "weight": array(jnp.float32),
    }


def traced_step(
    config: Config, mesh: Mesh, size: int, phonemes: int, frames: int
) -> jax.stages.Traced:
    """The training step of `size` rows over the mesh, not lowered yet."""
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    shapes = abstract_state(config)
    held = jax.tree.broadcast(formats(shapes, mesh), shapes)
    state = jax.tree.map(
        lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), shapes, held
    )
    return make_train_step(config, mesh).trace(
        state,
        abstract_batch(config, mesh, size, phonemes, frames),
        {"learning_rate": rate, "learning_rate_d": rate},
    )


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Compile one step, and say what it is made of."""
    devices = described(args.target) if args.target else jax.devices()
    mesh = Mesh(np.array(devices), ("data",))
    platform = devices[0].platform
    start = time.perf_counter()
    traced = traced_step(config, mesh, args.batch_size * mesh.size, args.phonemes, args.frames)
    lowered = traced.lower()
    lowering = time.perf_counter() - start
    start = time.perf_counter()
    low = platform == "tpu" and not args.full_effort
    program = lowered.compile({"exec_time_optimization_effort": -1.0} if low else None)
    compiling = time.perf_counter() - start
    text = program.as_text() or ""
    if args.hlo:
        Path(args.hlo).write_text(text, encoding="utf-8")
    found = operations(text)
    memory = program.memory_analysis()
    parameters = sum(
        int(np.prod(shape))
        for shapes in parameter_shapes(config).values()
        for shape in shapes.values()
    )
    least = floor(traced.jaxpr, parameters)
    chip = chip_of(devices[0])
    cost = program.cost_analysis() or {}
    return {
        "target": args.target or devices[0].device_kind,
        "devices": mesh.size,
        "quality": args.quality,
        "precision": chosen(args.precision, platform),
        "batch_size_per_device": args.batch_size,
        "phonemes": args.phonemes,
        "frames": args.frames,
        "lower_seconds": lowering,
        "compile_seconds": compiling,
        "peak_bytes": getattr(memory, "peak_memory_in_bytes", None),
        "bytes_per_utterance": cost.get("bytes accessed", float("nan")) / args.batch_size,
        **summary(found),
        "gflop_per_utterance": sum(c.flops for c in least.values()) / args.batch_size / 1e9,
        "floor_bytes_per_utterance": sum(c.bytes for c in least.values()) / args.batch_size,
        "floor_milliseconds": 1e3 * sum(c.seconds(chip) for c in least.values()) if chip else None,
        "parts": parts(found, least, args.batch_size, chip),
    }


def summary(found: list[Operation]) -> dict[str, Any]:
    """Of all operations: how many of which kind, how often run, what is to be avoided."""
    kinds = Counter(operation.kind for operation in found)
    calls = sum(n for kind, n in kinds.items() if kind.startswith(("call", "custom-call")))
    copies = kinds["copy"] + kinds["copy-start"]
    return {
        "operations": sum(kinds.values()),
        "fusions": kinds["fusion"],
        "calls": calls,
        "copies": copies,
        "fusions_calls_copies": kinds["fusion"] + calls + copies,
        "operations_run": sum(operation.times for operation in found),
        "longest_window": max((operation.window for operation in found), default=0),
        **{name: kinds[name] + kinds[f"{name}-start"] for name in COLLECTIVES},
        "kinds": dict(kinds.most_common()),
    }


def parts(
    found: list[Operation], least: dict[str, Cost], size: int, chip: Chip | None
) -> dict[str, dict[str, float | None]]:
    """Each part's operations and bytes, beside its floor, an utterance; its fastest time a step."""
    result: dict[str, dict[str, float | None]] = {}
    for name in (*PARTS, "other"):
        own = [operation for operation in found if part_of(operation.scope) == name]
        cost = least.get(name, Cost())
        if not own and not cost.products:
            continue
        result[name] = {
            "gflop": cost.flops / size / 1e9,
            "floor_megabytes": cost.bytes / size / 1e6,
            "megabytes": sum(o.bytes * o.times for o in own) / size / 1e6,
            "floor_milliseconds": 1e3 * cost.seconds(chip) if chip else None,
            "operations": len(own),
            "operations_run": sum(o.times for o in own),
        }
    return result
