"""Weights as direction and length, ``w = g · v / ‖v‖`` (Salimans & Kingma 2016, eq. 2).

The norm is over all but the first dimension, as ``torch.nn.utils.weight_norm``'s. A training
step computes the weights once, before the layers: a network whose weights are computed is
*folded*, and has ``weight`` where the other has ``weight_g`` and ``weight_v``.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vits_jax.model.forms import forms
from vits_jax.model.parameters import Parameters


def weight_norm(g: jax.Array, v: jax.Array, kept: int = 1) -> jax.Array:
    """The weights, of the shape of ``v``; the norm is over all but the first `kept` dimensions."""
    return v * (g / length(v, kept))


def length(v: jax.Array, kept: int = 1) -> jax.Array:
    """``‖v‖``, with the dimensions that it is over as ones."""
    array: Any = v
    xp: Any = np if isinstance(array, np.ndarray) else jnp  # initial values are the host's
    return xp.sqrt(xp.sum(v * v, axis=tuple(range(kept, v.ndim)), keepdims=True))


def fold(parameters: Parameters, dtype: DTypeLike, rows: int | None = None) -> Parameters:
    """A network's parameters with the weights computed, those in `dtype`.

    Those of one shape are computed together where the platform runs that best
    (`Forms.stacked`). For a batch of so many `rows`, every row has biases and scales of its
    own, ``[rows, 1, C]``, where that is best (`Forms.few_sums`).
    """
    layers = [name[: -len("_v")] for name in parameters if name.endswith("weight_v")]
    alike: dict[tuple[int, ...], list[str]] = {}
    for layer in layers:
        alike.setdefault(parameters[f"{layer}_v"].shape, []).append(layer)
    weights: Parameters = {}
    for shape, names in alike.items():
        together = len(names) > 1 and math.prod(shape) <= forms().stacked
        for group in [names] if together else [[name] for name in names]:
            weights |= _weights(parameters, group, dtype)
    folded = {}
    for name, array in parameters.items():
        if name.endswith("weight_v"):
            folded[name[: -len("_v")]] = weights[name[: -len("_v")]]
        elif not name.endswith("weight_g"):
            folded[name] = array
    return folded if rows is None or not forms().few_sums else _by_row(folded, rows)


def folded_name(name: str) -> str:
    """What a parameter is part of in a network that is folded."""
    normed = name.endswith(("weight_g", "weight_v"))
    return name[: -len("_v")] if normed else name


def _by_row(parameters: Parameters, rows: int) -> Parameters:
    """All vectors copied together: their gradients are then summed over the rows together."""
    vectors = [n for n in parameters if n.endswith((".bias", ".gamma", ".beta"))]
    joined = jnp.concatenate([parameters[name] for name in vectors])
    copies = jnp.broadcast_to(joined, (rows, 1, joined.size))
    start, own = 0, {}
    for name in vectors:
        end = start + parameters[name].size
        own[name], start = copies[:, :, start:end], end
    return {**parameters, **own}


def _weights(parameters: Parameters, layers: list[str], dtype: DTypeLike) -> Parameters:
    """Of layers whose weights have the same shape."""
    g, v = ([parameters[f"{layer}_{part}"] for layer in layers] for part in "gv")
    if len(layers) == 1:
        return {layers[0]: weight_norm(g[0], v[0]).astype(dtype)}
    stacked = weight_norm(jnp.stack(g), jnp.stack(v), kept=2).astype(dtype)
    return {layer: stacked[i] for i, layer in enumerate(layers)}
