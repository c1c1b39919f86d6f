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
import numpy as np
from jax.sharding import Mesh

from vits_jax.benchmarks.floor import PARTS, Cost, floor, part_of
from vits_jax.benchmarks.hlo import Operation, operations
from vits_jax.chips import Chip, chip_of, described
from vits_jax.composed import Piece, memory, trace
from vits_jax.config import Config
from vits_jax.model.networks import parameter_shapes
from vits_jax.model.precision import chosen
from vits_jax.state import abstract_state
from vits_jax.training import schedule
from vits_jax.training.mesh import AXIS, abstract_batch, abstract_copy, abstract_rates
from vits_jax.training.step import make_train_step

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def traced_step(config: Config, mesh: Mesh, size: int, phonemes: int, frames: int) -> list[Piece]:
    """The pieces of the training step of `size` rows over the mesh, not lowered yet."""
    return trace(
        make_train_step(config, mesh),
        (size, phonemes, frames),
        (
            abstract_copy(abstract_state(config), mesh),
            abstract_batch(config, mesh, size, phonemes, frames),
            abstract_rates(schedule.rates(config, 0, 0), mesh),
        ),
    )


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Compile one step, and say what it is made of."""
    devices = described(args.target) if args.target else jax.devices()
    mesh = Mesh(np.array(devices), (AXIS,))
    platform = devices[0].platform
    start = time.perf_counter()
    pieces = traced_step(config, mesh, args.batch_size * mesh.size, args.phonemes, args.frames)
    lowered = {piece.name: piece.traced.lower() for piece in pieces}
    lowering = time.perf_counter() - start
    low = platform == "tpu" and not args.full_effort
    programs, seconds = {}, {}
    for name, piece in lowered.items():
        start = time.perf_counter()
        programs[name] = piece.compile({"exec_time_optimization_effort": -1.0} if low else None)
        seconds[name] = time.perf_counter() - start
    texts = {name: program.as_text() or "" for name, program in programs.items()}
    if args.hlo:
        Path(args.hlo).write_text("\n".join(texts.values()), encoding="utf-8")
    found = [operation for text in texts.values() for operation in operations(text)]
    needs = memory(pieces, programs, mesh.size)
    parameters = sum(
        int(np.prod(shape))
        for shapes in parameter_shapes(config).values()
        for shape in shapes.values()
    )
    least = floor(*(piece.traced.jaxpr for piece in pieces), parameters=parameters)
    chip = chip_of(devices[0])
    costs = [program.cost_analysis() or {} for program in programs.values()]
    moved = sum(cost.get("bytes accessed", float("nan")) for cost in costs)
    return {
        "target": args.target or devices[0].device_kind,
        "devices": mesh.size,
        "quality": args.quality,
        "precision": chosen(args.precision, platform),
        "batch_size_per_device": args.batch_size,
        "phonemes": args.phonemes,
        "frames": args.frames,
        "lower_seconds": lowering,
        "compile_seconds": sum(seconds.values()),
        "compile_seconds_of": seconds,
        # For every other shape; validation's and speech's programs come to it.
        "compile_seconds_of_a_shape": sum(seconds[name] for name in _of_a_shape(pieces)),
        "peak_bytes": None if needs is None else needs.bytes,
        "bytes_per_utterance": moved / args.batch_size,
        **summary(found),
        "gflop_per_utterance": sum(c.flops for c in least.values()) / args.batch_size / 1e9,
        "floor_bytes_per_utterance": sum(c.bytes for c in least.values()) / args.batch_size,
        "floor_milliseconds": 1e3 * sum(c.seconds(chip) for c in least.values()) if chip else None,
        "parts": parts(found, least, args.batch_size, chip),
    }


def _of_a_shape(pieces: list[Piece]) -> set[str]:
    """Those that are compiled again for every shape of a batch."""
    return {piece.name for piece in pieces if len(piece.key) > 1}


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
