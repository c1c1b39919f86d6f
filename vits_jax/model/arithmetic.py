"""Sums and types of arrays."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp


def at_least_float32(x: jax.Array) -> jax.Array:
    """``x [...]`` in float32 or, if it has more, in its own precision."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def total(terms: Iterable[jax.Array]) -> jax.Array:
    """The sum of at least one ``[...]``; `sum` would begin with the int 0."""
    return functools.reduce(operator.add, terms)
