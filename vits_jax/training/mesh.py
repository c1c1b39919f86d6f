"""Devices as a one-dimensional mesh: rows of a batch are spread, all else is copied."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from vits_jax.config import Config
from vits_jax.errors import UserError

BY_OUTPUT = {"tpu"}  # platforms on which the last dimension of a weight is its output's channels
AXIS = "data"  # of the mesh, over which rows are spread
LANES = 128  # numbers of the last dimension that a TPU keeps together


def make_mesh(devices: int | str = "auto", accelerator: str = "auto") -> Mesh:
    """A mesh with the one axis `AXIS`, over the devices of all processes.

    The devices of a process lie side by side in it, in the processes' order: so do its rows.

    Args:
        devices: how many devices of each process, or ``auto`` for all of them.
        accelerator: ``cpu``, ``gpu``, ``tpu``, or ``auto`` for the best there is.

    Raises:
        UserError: there are no such devices, or not so many.
    """
    try:
        found = jax.devices(None if accelerator == "auto" else accelerator)
        here = jax.local_devices(backend=None if accelerator == "auto" else accelerator)
    except RuntimeError as error:
        raise UserError(
            f"--accelerator {accelerator}: JAX finds no such device here, it has "
            f"{jax.default_backend()} (for GPUs install vits_jax[cuda], for TPUs vits_jax[tpu])"
        ) from error
    count = len(here) if isinstance(devices, str) else devices
    if count > len(here):
        raise UserError(f"--devices {count}: JAX finds {len(here)} here ({found[0].device_kind})")
    if len(here) < len(found):
        of = {index: [d for d in found if d.process_index == index] for index in _processes(found)}
        chosen = np.array([device for own in of.values() for device in own[:count]])
        return Mesh(chosen, (AXIS,), axis_types=(AxisType.Auto,))
    # Automatic axes: with explicit ones, indexing by sharded ids does not trace.
    return jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=found[:count])


def _processes(devices: Iterable[jax.Device]) -> list[int]:
    return sorted({device.process_index for device in devices})


def processes_of(mesh: Mesh) -> int:
    """How many have devices in the mesh."""
    return len(_processes(mesh.devices.flat))


def of_this_process(mesh: Mesh) -> Mesh:
    """One device of it, of this process: for what is computed beside the others."""
    return Mesh(np.array(mesh.local_devices[:1]), (AXIS,), axis_types=(AxisType.Auto,))


def local(tree: Any) -> Any:
    """Of arrays that every device has whole, the copy on one device of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def put_copies(tree: Any, shardings: Any) -> Any:
    """Arrays of the host to the devices; every process has the same ones.

    Args:
        tree: of arrays.
        shardings: one for all, or a tree as `tree`: `replicated`, or `formats`.
    """
    held = jax.tree.broadcast(shardings, tree)

    def put(array: Any, lies: Any) -> jax.Array:
        sharding: Any = lies.sharding if isinstance(lies, Format) else lies
        if sharding.is_fully_addressable:
            return jax.device_put(array, lies)
        # `device_put` would compare the processes' arrays, number by number.
        whole = np.asarray(array)
        with jax.transfer_guard_host_to_device("allow"):  # JAX calls it unasked
            return jax.make_array_from_callback(whole.shape, lies, lambda index: whole[index])

    return jax.tree.map(put, tree, held)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first dimension spread over the devices."""
    return NamedSharding(mesh, P(AXIS))


def formats(state: Any, mesh: Mesh, *, stacked: bool = False) -> Any:
    """How each array of a state (or of its parameters) lies on the devices, a copy on each.

    A tree as the state, or one answer for all of it, as JAX takes for shardings.

    Args:
        state: a tree of arrays.
        mesh: the devices.
        stacked: every device has its own, and all together they have a dimension more, the first.

    On a TPU the weights of convolutions lie as their gradients come out, the taps outermost
    and the output channels innermost. As the compiler would have them by itself, AdamW copies
    each weight and both its moments there and back (docs/performance.md).
    """
    whole = by_row(mesh) if stacked else replicated(mesh)
    if mesh.devices.flat[0].platform not in BY_OUTPUT:
        return whole

    def of(array: Any) -> NamedSharding | Format:
        dimensions = array.ndim
        fills_lanes = dimensions >= 3 and array.shape[0] % LANES == 0
        order = tuple(reversed(range(dimensions)))
        if stacked:
            order = (0, *(1 + dimension for dimension in order))
        return Format(Layout(major_to_minor=order), whole) if fills_lanes else whole

    return jax.tree.map(of, state)


def abstract_batch(config: Config, mesh: Mesh, rows: int, phonemes: int, frames: int) -> Any:
    """What `put_rows` gives of a batch of that shape (`load_batch`), of `jax.ShapeDtypeStruct`."""

    def array(kind: DTypeLike, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), kind, sharding=by_row(mesh))

    return {
        "phoneme_ids": array(jnp.int32, phonemes),
        "phoneme_lengths": array(jnp.int32),
        "audio": array(jnp.int16, frames * config.audio.hop_length),
        "audio_lengths": array(jnp.int32),
        "speaker_ids": array(jnp.int32),
        "weight": array(jnp.float32),
    }


def abstract_copy(arrays: Any, mesh: Mesh) -> Any:
    """`arrays` as they lie on the devices (`formats`), of `jax.ShapeDtypeStruct`."""
    held = jax.tree.broadcast(formats(arrays, mesh), arrays)
    return jax.tree.map(
        lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), arrays, held
    )


def abstract_rates(rates: Any, mesh: Mesh) -> Any:
    """Learning rates (`schedule.rates`)."""
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    return jax.tree.map(lambda _: rate, rates)


def put_rows(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch to the devices; of all processes, ``[B, …]``: `load_batch`."""
    put = functools.partial(jax.make_array_from_process_local_data, by_row(mesh))
    with jax.transfer_guard_host_to_device("allow"):  # over several processes JAX calls it unasked
        return {name: put(rows) for name, rows in batch.items()}


def gathered(batch: Mapping[str, jax.Array | np.ndarray]) -> dict[str, np.ndarray]:
    """All rows of what `put_rows` gave, on the host; of several processes, all must call."""
    return multihost_utils.process_allgather(dict(batch), tiled=True)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise `UserError` unless every device gets the same number of rows."""
    count = mesh.size
    if batch_size % count:
        below = batch_size // count * count
        near = below if below and batch_size - below <= count // 2 else below + count
        raise UserError(
            f"--batch-size {batch_size}: expected a multiple of the {count} devices"
            f"{_of_processes(mesh)}, such as "
            f"{near} (or fewer --devices)"
        )


def _of_processes(mesh: Mesh) -> str:
    count = processes_of(mesh)
    return f" of {count} processes" if count > 1 else ""
