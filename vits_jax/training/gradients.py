"""Gradients of many tensors as a few large pieces: summed over the devices, their norm."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from vits_jax.model.arithmetic import total
from vits_jax.model.parameters import Parameters

JOINED = {"cpu": 0, "gpu": 1_000_000, "tpu": 10_000}
"""Tensors of up to so many numbers are joined to one vector, by platform.

On a GPU every tensor less is a kernel less, of the sum and of the norm; the dozen largest ones
would only be copied. On a TPU large tensors lie in tiles, from which a vector takes a copy; a
processor compiles them slower joined. In figures: docs/performance.md.
"""


def summed(gradients: Parameters, axis: str, platform: str) -> tuple[Parameters, jax.Array]:
    """Their sum over the mesh's `axis`, and the norm of that, ``[]``.

    Args:
        gradients: of one network, ``{name: array}``, of one device's rows.
        axis: of the mesh.
        platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``: it decides how, no number.
    """
    sizes = {name: math.prod(g.shape) for name, g in gradients.items()}
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, size in sizes.items():
        if size <= JOINED[platform]:
            alike.setdefault(gradients[name].shape, []).append(name)
    joined = [name for names in alike.values() for name in names]
    pieces = {name: g for name, g in gradients.items() if sizes[name] > JOINED[platform]}
    if joined:
        # By shape, as weights are normalised (`weight_norm.fold`): what is joined already stays so.
        stacks = [jnp.stack([gradients[n] for n in names]) for names in alike.values()]
        # Behind a barrier, or what makes a tensor is computed again where it is joined.
        vector = jnp.concatenate([stack.reshape(-1) for stack in stacks])
        pieces[""] = lax.optimization_barrier(vector)
    pieces = lax.psum(pieces, axis)
    norm = jnp.sqrt(total(jnp.sum(piece * piece) for piece in pieces.values()))
    vector, start = pieces.pop("", None), 0
    for name in joined:
        pieces[name] = vector[start : start + sizes[name]].reshape(gradients[name].shape)
        start += sizes[name]
    return {name: pieces[name] for name in gradients}, norm
