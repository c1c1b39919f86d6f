"""The same noise and dropout masks on both sides of a comparison.

`Injected` answers vits_jax's model; `injected_into` makes the oracle draw from the same
arrays. Every array is a function of its name alone, so neither side depends on the order
in which the other asks.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def noise(name: str, rows: int, shape: tuple[int, ...], first_row: int = 0) -> np.ndarray:
    """Standard normal ``[rows, *shape]``; a longer first dimension only adds to the end."""
    numbers = range(first_row, first_row + rows)
    return np.stack([_rng(f"{name}/{row}").standard_normal(shape) for row in numbers])


def uniform(name: str, rows: int) -> np.ndarray:
    """``[rows]`` in [0, 1)."""
    return _rng(name).uniform(size=rows)


def keep(name: str, shape: tuple[int, ...], rate: float) -> np.ndarray:
    """A dropout mask: 0 or 1 / (1 - rate)."""
    return (_rng(name).uniform(size=shape) >= rate) / (1 - rate)


class Injected:
    """`vits_jax.model.randomness.Randomness` with the arrays of this module."""

    def __init__(self, rows: int, *, dropout: bool = False):
        self.rows, self.use_dropout = rows, dropout
        self.dropped: list[str] = []

    def normal(self, name: str, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        return jnp.asarray(noise(name, self.rows, shape), dtype)

    def uniform(self, name: str, dtype: jnp.dtype) -> jax.Array:
        return jnp.asarray(uniform(name, self.rows), dtype)

    def dropout(self, name: str, x: jax.Array, rate: float) -> jax.Array:
        if not self.use_dropout or rate == 0.0:
            return x
        self.dropped.append(name)
        return x * jnp.asarray(keep(name, x.shape, rate), x.dtype)


class _Mask(nn.Module):
    """In place of one of the oracle's `nn.Dropout`: the n-th call multiplies by the n-th mask."""

    def __init__(self, name: str, rate: float, dropped: list[str]):
        super().__init__()
        self.name, self.rate, self.dropped, self.calls = name, rate, dropped, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        name = self._call_name()
        self.dropped.append(name)
        if x.dim() == 4:  # attention weights: the same layout on both sides
            mask = keep(name, tuple(x.shape), self.rate)
        else:
            mask = keep(name, (x.shape[0], x.shape[2], x.shape[1]), self.rate).transpose(0, 2, 1)
        return x * torch.from_numpy(mask.copy()).to(x.dtype)

    def _call_name(self) -> str:
        call, self.calls = self.calls, self.calls + 1
        if self.name == "enc_p.encoder.drop":  # attention output and FFN output in turn
            return f"{self.name}.{call // 2}.{call % 2}"
        own_module_per_place = ".attn_layers." in self.name or ".ffn_layers." in self.name
        return self.name if own_module_per_place else f"{self.name}.{call}"


def inject_dropout(network: nn.Module) -> list[str]:
    """Replace every dropout with a rate by fixed masks; returns the list of calls to come."""
    dropped: list[str] = []
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Dropout) and module.p > 0:
            parent, _, attribute = path.rpartition(".")
            setattr(network.get_submodule(parent), attribute, _Mask(path, module.p, dropped))
    return dropped


@contextlib.contextmanager
def injected_into_oracle(randn_like: str = "enc_q", first_row: int = 0) -> Iterator[None]:
    """Inside, the oracle draws this module's arrays.

    ``randn`` is the duration predictor's, ``rand`` the segment's; ``randn_like`` is the
    posterior's in training and voice conversion, the prior's ("prior") in inference.
    ``first_row`` is the number of its first row.
    """

    def channels_first(name: str, rows: int, channels: int, length: int) -> torch.Tensor:
        array = noise(name, rows, (length, channels), first_row).transpose(0, 2, 1)
        return torch.from_numpy(array.copy()).to(torch.get_default_dtype())

    def fake_randn(rows: int, channels: int, length: int) -> torch.Tensor:
        return channels_first("dp", rows, channels, length)

    def fake_randn_like(x: torch.Tensor) -> torch.Tensor:
        return channels_first(randn_like, *x.shape)

    def fake_rand(shape: list[int]) -> torch.Tensor:
        return torch.from_numpy(uniform("segment", shape[0])).to(torch.get_default_dtype())

    with (
        mock.patch.object(torch, "randn", fake_randn),
        mock.patch.object(torch, "randn_like", fake_randn_like),
        mock.patch.object(torch, "rand", fake_rand),
    ):
        yield
