"""Where the model's random numbers come from.

A model's forward pass takes an object that answers three questions by name: Gaussian
noise, a uniform number, a dropout mask. In training the answers are a pure function of
(seed, step, name, global row), so that there is nothing to save, a resumed run repeats
the uninterrupted one, and one device draws what eight would draw.
"""

from __future__ import annotations

import zlib
from typing import Protocol

import jax
import jax.numpy as jnp


class Randomness(Protocol):
    """What the model asks for; names are Piper's module paths."""

    def normal(self, name: str, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        """Standard normal noise ``[B, *shape]``."""
        ...

    def uniform(self, name: str, dtype: jnp.dtype) -> jax.Array:
        """One number in [0, 1) per row, ``[B]``."""
        ...

    def dropout(self, name: str, x: jax.Array, rate: float) -> jax.Array:
        """``x [B, ...]`` with a share ``rate`` set to zero and the rest scaled up."""
        ...


class RowRandomness:
    """Random numbers that depend on each row's own key and the name asked for."""

    def __init__(self, row_keys: jax.Array, *, dropout: bool):
        self.row_keys = row_keys  # [B] typed keys
        self.use_dropout = dropout

    def _keys(self, name: str) -> jax.Array:
        stream = jnp.uint32(zlib.crc32(name.encode()))  # stable between processes, unlike hash()
        return jax.vmap(jax.random.fold_in, (0, None))(self.row_keys, stream)

    def normal(self, name: str, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(self._keys(name))

    def uniform(self, name: str, dtype: jnp.dtype) -> jax.Array:
        return jax.vmap(lambda key: jax.random.uniform(key, (), dtype))(self._keys(name))

    def dropout(self, name: str, x: jax.Array, rate: float) -> jax.Array:
        if not self.use_dropout or rate == 0.0:
            return x
        shape = x.shape[1:]
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(self._keys(name))
        return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def row_keys(seed: int | jax.Array, step: int | jax.Array, rows: jax.Array) -> jax.Array:
    """Keys ``[B]`` of the global rows ``rows [B]`` at one step of a run."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
