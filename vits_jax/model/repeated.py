"""Layers that are alike, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from vits_jax.model.forms import forms, without_loops

T = TypeVar("T")
Index = int | jax.Array  # of a layer; in a loop it is not known while tracing


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in (lax.dot_general_p, lax.conv_general_dilated_p)


def repeat(layers: Sequence[Any], x: T, through: Callable[[Any, T, Index], T]) -> T:
    """``x`` through all `layers`, as one loop where the platform runs that best (`Forms.loops`).

    A loop keeps for the backward pass what goes into a layer and its matrix products and
    convolutions, no more.

    Args:
        layers: modules, or tuples of modules; parameters of the same shapes.
        x: a tree of arrays.
        through: a layer, what went through those before it, and its number, to what comes out,
            of the same shapes and types.
    """
    if not forms().loops or len(layers) < 2:
        for i, layer in enumerate(layers):
            x = through(layer, x, i)
        return x
    graphs, states = zip(*(nnx.split(layer) for layer in layers))
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *states)

    def body(x: T, layer: tuple[Any, jax.Array]) -> tuple[T, None]:
        state, i = layer
        with without_loops():
            return through(nnx.merge(graphs[0], state), x, i), None

    # The backward pass computes again what lies between products: to read it costs more.
    body = jax.checkpoint(body, prevent_cse=False, policy=_is_product)
    x, _ = lax.scan(body, x, (stacked, jnp.arange(len(layers), dtype=jnp.int32)))
    return x
