"""Weights as direction and length, ``w = g · v / ‖v‖`` (Salimans & Kingma 2016, eq. 2).

The norm is over all but the first dimension, as ``torch.nn.utils.weight_norm``'s. A training
step computes the weights once, before the layers: a network whose weights are computed is
*folded*, and has ``weight`` where the other has ``weight_g`` and ``weight_v``.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vits_jax.model.forms import forms
from vits_jax.model.parameters import Parameters


def weight_norm(g: jax.Array, v: jax.Array, kept: int = 1) -> jax.Array:
    """The weights, of the shape of ``v``; the norm is over all but the first `kept` dimensions."""
    return v * (g / length(v, kept))


def length(v: jax.Array, kept: int = 1) -> jax.Array:
    """``‖v‖``, with the dimensions that it is over as ones."""
    return jnp.sqrt(jnp.sum(v * v, axis=tuple(range(kept, v.ndim)), keepdims=True))


def fold(parameters: Parameters, dtype: DTypeLike) -> Parameters:
    """A network's parameters with the weights computed, those in `dtype`.

    Those of one shape are computed together where the platform runs that best
    (`Forms.stacked`).
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
    return folded


def _weights(parameters: Parameters, layers: list[str], dtype: DTypeLike) -> Parameters:
    """Of layers whose weights have the same shape."""
    g, v = ([parameters[f"{layer}_{part}"] for layer in layers] for part in "gv")
    if len(layers) == 1:
        return {layers[0]: weight_norm(g[0], v[0]).astype(dtype)}
    stacked = weight_norm(jnp.stack(g), jnp.stack(v), kept=2).astype(dtype)
    return {layer: stacked[i] for i, layer in enumerate(layers)}
