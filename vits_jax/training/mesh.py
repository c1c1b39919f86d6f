"""Devices as a one-dimensional mesh: rows of a batch are spread, all else is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vits_jax.errors import UserError

BY_OUTPUT = {"tpu"}  # platforms on which the last dimension of a weight is its output's channels
LANES = 128  # numbers of the last dimension that a TPU keeps together


def make_mesh(devices: int | str = "auto", accelerator: str = "auto") -> Mesh:
    """A mesh with the one axis ``data``.

    Args:
        devices: how many devices, or ``auto`` for all of them.
        accelerator: ``cpu``, ``gpu``, ``tpu``, or ``auto`` for the best there is.

    Raises:
        UserError: there are no such devices, or not so many.
    """
    try:
        found = jax.devices(None if accelerator == "auto" else accelerator)
    except RuntimeError as error:
        raise UserError(
            f"--accelerator {accelerator}: JAX finds no such device here, it has "
            f"{jax.default_backend()} (for GPUs install vits_jax[cuda], for TPUs vits_jax[tpu])"
        ) from error
    count = len(found) if isinstance(devices, str) else devices
    if count > len(found):
        raise UserError(f"--devices {count}: JAX finds {len(found)} here ({found[0].device_kind})")
    # Automatic axes: with explicit ones, indexing by sharded ids does not trace.
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=found[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first dimension spread over the devices."""
    return NamedSharding(mesh, P("data"))


def formats(state: Any, mesh: Mesh) -> Any:
    """How each array of a state (or of its parameters) lies on the devices, a copy on each.

    A tree as the state, or one answer for all of it, as JAX takes for shardings.

    On a TPU the weights of convolutions lie as their gradients come out, the taps outermost
    and the output channels innermost. As the compiler would have them by itself, AdamW copies
    each weight and both its moments there and back (docs/performance.md).
    """
    whole = replicated(mesh)
    if mesh.devices.flat[0].platform not in BY_OUTPUT:
        return whole

    def of(array: Any) -> NamedSharding | Format:
        dimensions = array.ndim
        fills_lanes = dimensions >= 3 and array.shape[0] % LANES == 0
        by_output = Layout(major_to_minor=tuple(reversed(range(dimensions))))
        return Format(by_output, whole) if fills_lanes else whole

    return jax.tree.map(of, state)


def put_rows(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch to the devices; of all processes, ``[B, …]``: `load_batch`."""
    sharding = by_row(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise `UserError` unless every device gets the same number of rows."""
    count = mesh.size
    if batch_size % count:
        below = batch_size // count * count
        near = below if below and batch_size - below <= count // 2 else below + count
        raise UserError(
            f"--batch-size {batch_size}: expected a multiple of the {count} devices, such as "
            f"{near} (or fewer --devices)"
        )
