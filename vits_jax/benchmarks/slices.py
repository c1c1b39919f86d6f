"""What a training step takes of chips that are not here (``plan --topology``).

Memory, arithmetic and what goes over the links are the compiler's, of the real step. Times are
what the maker's peaks allow, so no run is faster; cost goes by them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vits_jax.benchmarks.compiled import traced_step
from vits_jax.benchmarks.floor import floor
from vits_jax.benchmarks.hlo import operations
from vits_jax.chips import Chip, chip_of, described
from vits_jax.composed import memory
from vits_jax.config import Config
from vits_jax.device_memory import is_out_of_memory
from vits_jax.errors import UserError
from vits_jax.model.precision import chosen
from vits_jax.training.mesh import AXIS, check_batch_size


def figures(
    config: Config,
    topology: str,
    phonemes: int,
    frames: int,
    hours: float | None = None,
    price: float | None = None,
    largest: bool = False,
) -> dict[str, Any]:
    """Of one step, for JSON; sizes in bytes, times in seconds.

    Args:
        config: of the run; its ``batch_size`` is spread over the chips.
        topology: as `chips.described` has it.
        phonemes, frames: of every row.
        hours: of speech in an epoch, for its time.
        price: of a chip for an hour, for the cost of an epoch.
        largest: whether to look for the largest batch: it compiles once more.

    Raises:
        UserError: there is no such topology, its compiler is not installed, or the batch does not
            divide.
    """
    size = config.data.batch_size
    if size is None:
        raise UserError("--batch-size is missing: --topology takes utterances, over all chips")
    mesh = Mesh(np.array(described(topology)), (AXIS,))
    check_batch_size(size, mesh)
    chip, device = chip_of(mesh.devices.flat[0]), mesh.devices.flat[0]
    if chip is None:
        raise UserError(f"--topology {topology}: nothing is known of a {device.device_kind}")
    found = _compiled(config, mesh, size, phonemes, frames)
    seconds = {
        "compute": found["gflop_per_chip"] * 1e9 / chip.flops,
        "memory": found["bytes_per_chip"] / chip.bandwidth,
        "all_reduce": _all_reduce(found["all_reduce_bytes"], mesh.size, chip),
    }
    step = max(seconds["compute"], seconds["memory"]) + seconds["all_reduce"]
    result = {
        "topology": topology,
        "chips": mesh.size,
        "chip_bytes": chip.memory,
        "batch_size": size,
        "phonemes": phonemes,
        "frames": frames,
        "precision": chosen(config.run.precision, device.platform),
        **found,
        "seconds_at_peaks": seconds,
        "step_seconds_at_peaks": step,
        "all_reduce_share": seconds["all_reduce"] / step,
    }
    if hours is not None:
        steps = math.ceil(3600 * hours * config.audio.sample_rate / config.audio.hop_length)
        steps = math.ceil(steps / frames / size)
        result |= {"steps_per_epoch": steps, "epoch_seconds_at_peaks": steps * step}
        if price is not None:
            result["epoch_cost_at_peaks"] = steps * step / 3600 * mesh.size * price
    if largest:
        result["largest_batch_size"] = _largest(config, mesh, chip, result)
    return result


def _compiled(
    config: Config, mesh: Mesh, size: int, phonemes: int, frames: int
) -> dict[str, float | int]:
    """Of the compiled step, each chip's share."""
    pieces = traced_step(config, mesh, size, phonemes, frames)
    start = time.perf_counter()
    # As a TPU's programs are compiled for these figures elsewhere: twice as fast.
    options = (
        {"exec_time_optimization_effort": -1.0} if mesh.devices.flat[0].platform == "tpu" else None
    )
    try:
        programs = {piece.name: piece.traced.lower().compile(options) for piece in pieces}
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{size} rows of {frames} frames do not fit into the memory of {mesh.size} chips: use "
            "a smaller --batch-size"
        ) from error
    seconds = time.perf_counter() - start
    needs = memory(pieces, programs, mesh.size)
    least = floor(*(piece.traced.jaxpr for piece in pieces))
    costs = [program.cost_analysis() or {} for program in programs.values()]
    # An operation's bytes are those that it reads and writes: as many of each, or all of them.
    payload = {"all-reduce": 1 / 2, "all-gather": mesh.size / (mesh.size + 1)}
    over_links, moved = dict.fromkeys(payload, 0.0), 0.0
    for program in programs.values():
        for operation in operations(program.as_text() or ""):
            moved += operation.times * operation.bytes
            name = operation.kind.removesuffix("-start")
            if name in over_links and mesh.size > 1:  # with one chip nothing goes anywhere
                over_links[name] += operation.times * operation.bytes * payload[name]
    return {
        "peak_bytes_per_chip": 0 if needs is None else needs.bytes,
        # XLA:GPU does not count for itself: then it is the products' arithmetic, and what the
        # operations read and write.
        "gflop_per_chip": (_counted(costs, "flops") or sum(c.flops for c in least.values())) / 1e9,
        "bytes_per_chip": _counted(costs, "bytes accessed") or moved,
        "all_reduce_bytes": round(over_links["all-reduce"]),
        "all_gather_bytes": round(over_links["all-gather"]),
        "compile_seconds": seconds,
    }


def _counted(costs: Sequence[Mapping[str, float]], name: str) -> float:
    """By the compiler, of all programs; 0 where it does not count."""
    counts = [cost.get(name, 0.0) for cost in costs]
    return sum(counts) if all(math.isfinite(n) and n > 0 for n in counts) else 0.0


def _all_reduce(size: float, chips: int, chip: Chip) -> float:
    """Seconds: every chip sends and receives nearly all of it twice (a ring, over all links)."""
    return 2 * (chips - 1) / chips * size / chip.links


_MORE = 4  # times the rows, for a second point of the line


def _largest(config: Config, mesh: Mesh, chip: Chip, found: dict[str, Any]) -> int:
    """By the straight line through two compiled sizes: memory grows with the rows."""
    size, peak = found["batch_size"], found["peak_bytes_per_chip"]
    shape = found["phonemes"], found["frames"]
    more = _compiled(config, mesh, _MORE * size, *shape)["peak_bytes_per_chip"]
    of_a_row = max((more - peak) / ((_MORE - 1) * size), 1)
    rows = int(size + (chip.memory - peak) / of_a_row)
    return max(0, rows // mesh.size * mesh.size)
