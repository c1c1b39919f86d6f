"""Gradients of many tensors as a few large pieces: summed over the devices, their norm.

A step's programs hand gradients on in these pieces: joined where they are made, they cost no copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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


_VECTOR = ""  # the name of what is joined


def joined(gradients: Parameters, platform: str, apart: tuple[str, ...] = ()) -> Parameters:
    """The small ones as one vector: ``{name: array}`` of fewer arrays.

    Args:
        gradients: ``{name: array}``.
        platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``: it decides which.
        apart: those whose names begin so are left as they are.
    """
    groups = _groups(gradients, platform, apart)
    if not groups:
        return gradients
    # By shape, as weights are normalised (`weight_norm.fold`): what is joined already stays so.
    stacks = [jnp.stack([gradients[name] for name in names]) for names in groups]
    # Behind a barrier, or what makes a tensor is computed again where it is joined.
    vector = jnp.concatenate([stack.reshape(-1) for stack in stacks])
    inside = {name for names in groups for name in names}
    pieces = {name: g for name, g in gradients.items() if name not in inside}
    return pieces | {_VECTOR: lax.optimization_barrier(vector)}


def parted(
    pieces: Parameters, like: Mapping[str, Any], platform: str, apart: tuple[str, ...] = ()
) -> Parameters:
    """What was `joined`, ``{name: array}``, of arrays shaped as those of `like`."""
    gradients, start = dict(pieces), 0
    vector = gradients.pop(_VECTOR, None)
    for names in _groups(like, platform, apart):
        for name in names:
            end = start + math.prod(like[name].shape)
            assert vector is not None
            gradients[name], start = vector[start:end].reshape(like[name].shape), end
    return gradients


def _groups(arrays: Mapping[str, Any], platform: str, apart: tuple[str, ...]) -> list[list[str]]:
    """Names of what is joined, those of one shape together."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, array in arrays.items():
        if math.prod(array.shape) <= JOINED[platform] and not name.startswith(apart):
            alike.setdefault(array.shape, []).append(name)
    return list(alike.values())


def summed(parts: Sequence[Parameters], axis: str) -> tuple[list[Parameters], jax.Array]:
    """Sums over the mesh's `axis`, and the norm of all of them, ``[]``.

    Args:
        parts: of one network, each `joined`; what is in several of them under one name is
            added, and is in the first of these afterwards.
        axis: of the mesh.
    """
    own: list[Parameters] = []
    found: dict[str, int] = {}
    for i, pieces in enumerate(parts):
        own.append({})
        for name, piece in pieces.items():
            first = i if name == _VECTOR else found.setdefault(name, i)
            own[first][name] = own[first][name] + piece if name in own[first] else piece
    own = lax.psum(own, axis)
    squares = [jnp.sum(piece * piece) for pieces in own for piece in pieces.values()]
    return own, jnp.sqrt(total(squares or [jnp.zeros(())]))  # of none, where all is frozen
