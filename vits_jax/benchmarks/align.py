"""Monotonic alignment in all its forms (``benchmark align``).

Launches are what the device is told to do, one after the other; dependent turns are those of the
program's loops, each of which waits for the one before. What turns inside of a kernel is neither.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled

from vits_jax.benchmarks.alignment_peers import Search, compiled_loop, numpy_path
from vits_jax.benchmarks.hlo import operations, turns
from vits_jax.chips import described
from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.alignment import durations
from vits_jax.model.alignment_loop import durations_by_loop
from vits_jax.model.forms import forms, forms_for


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Random scores of full-length rows: each form's program, and its time where it can run.

    Raises:
        UserError: no path has fewer frames than phonemes.
    """
    del config  # scores have no configuration
    if args.frames < args.phonemes:
        raise UserError(
            f"--frames {args.frames}: expected at least as many as --phonemes, {args.phonemes}"
        )
    device = (described(args.target) if args.target else jax.devices())[0]
    programs = _programs(device, args.batch_size, args.frames, args.phonemes)
    parts = {name: _counted(program) for name, program in programs.items()}
    if not args.target:
        for name, figures in _timed(programs, args).items():
            parts[name] = figures | parts.get(name, {})
    return {
        "device": args.target or device.device_kind,
        "batch_size": args.batch_size,
        "frames": args.frames,
        "phonemes": args.phonemes,
        "parts": parts,
    }


def _programs(device: jax.Device, batch: int, frames: int, phonemes: int) -> dict[str, Compiled]:
    """The loop, and what is chosen for the device if that is the kernel."""
    on = SingleDeviceSharding(device)
    scores = jax.ShapeDtypeStruct((batch, frames, phonemes), jnp.float32, sharding=on)
    length = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=on)

    def compiled(function: Callable[..., jax.Array]) -> Compiled:
        with forms_for(device):
            return jit(function, device.platform).lower(scores, length, length).compile()

    with forms_for(device):
        has_kernel = forms().alignment_kernel
    # Functions that are jitted twice are traced once: the form is no part of the key.
    found = {"loop": compiled(durations_by_loop)}
    return {"kernel": compiled(durations), **found} if has_kernel else found


def _counted(program: Compiled) -> dict[str, float]:
    text = program.as_text() or ""
    found = operations(text)
    return {
        "launches": sum(operation.times for operation in found),
        "dependent_turns": turns(text),
        "megabytes": sum(operation.bytes * operation.times for operation in found) / 1e6,
    }


def _timed(programs: dict[str, Compiled], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """In turns; and in how many phonemes' durations each differs from the loop's."""
    shape = (args.batch_size, args.frames, args.phonemes)
    scores = np.random.default_rng(0).normal(-10, 3, shape).astype(np.float32)
    phonemes, frames = (np.full(args.batch_size, n, np.int32) for n in (shape[2], shape[1]))
    here = jax.device_put((scores, phonemes, frames))

    def on_device(program: Compiled) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(program(*here))

    def on_host(search: Search) -> Callable[[], Any]:
        return lambda: search(scores, phonemes, frames)

    runs = {name: on_device(program) for name, program in programs.items()}
    runs["numpy"] = on_host(numpy_path)
    if (search := compiled_loop()) is not None:
        runs["C loop"] = on_host(search)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for _ in range(args.steps + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    expected = np.asarray(results["loop"])
    figures: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        got = np.asarray(result)
        if name not in programs:
            got = np.stack([np.bincount(path, minlength=shape[2]) for path in got])
        figures[name] = {
            "milliseconds": 1e3 * statistics.median(seconds[name][1:]),
            "different": int(np.sum(got != expected)),
        }
    if search is None:
        figures["C loop"] = {"milliseconds": "no C compiler"}
    return figures
