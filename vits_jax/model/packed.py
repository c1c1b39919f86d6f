"""Packed signals: several successive samples side by side in the channels.

``[B, T, C]`` packed by ``F`` is ``[B, T / F, F * C]``, the same numbers in the same order. A TPU
keeps 128 numbers of the last dimension together and fills up what is not there: a signal of 16
channels takes eight times its size, and moves as often. Packed by eight it fills what it takes.
What works number by number (nonlinearities, sums, L1 distances) need not know of it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vits_jax.model.forms import forms


def pack(x: jax.Array, by: int) -> jax.Array:
    """``[B, T, C]`` to ``[B, T / by, by * C]``; ``by`` divides ``T``."""
    return x.reshape(x.shape[0], -1, by * x.shape[2])


def unpack(x: jax.Array, channels: int) -> jax.Array:
    """The reverse: to ``[B, T, channels]``."""
    return x.reshape(x.shape[0], -1, channels)


def packing(channels: int, length: int) -> int:
    """By how much a signal of that many channels and samples is packed on this platform."""
    by = max(forms().lanes // channels, 1)
    while length % by:
        by //= 2
    return by


def packed_conv1d(
    x: jax.Array,
    weight: jax.Array,
    *,
    packed: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> jax.Array:
    """`convolution.conv1d` of a packed signal, to a packed one.

    An ordinary convolution over the packs: each weight stands wherever a sample of a pack of
    the input bears upon a sample of a pack of the output, zeros stand elsewhere.

    Args:
        x: ``[B, T / i, i * in]``.
        weight: ``[out, in / groups, k]``.
        packed: by how much, input ``i`` and output ``o``; ``i`` divides ``stride * o``.
        stride, dilation, padding, groups: of the convolution; the padding is such that ``T``
            samples give ``T / stride``.

    Returns:
        ``[B, T / stride / o, o * out]``.
    """
    into, out_of = packed
    c_out, _, k = weight.shape
    places, left, right = _places(k, stride, dilation, padding, into, out_of)
    weight = _dense(weight.astype(x.dtype), groups)
    # Each sum has one term: with full precision, whatever the accelerator's default, no rounding.
    highest = lax.Precision.HIGHEST
    dense = jnp.einsum("ock,qkrb->qorcb", weight, jnp.asarray(places, x.dtype), precision=highest)
    dense = dense.reshape(out_of * c_out, x.shape[2], places.shape[3])
    return lax.conv_general_dilated(
        x,
        dense,
        (stride * out_of // into,),
        [(left, right)],
        dimension_numbers=("NWC", "OIW", "NWC"),
    )


def packed_conv_transpose1d(x: jax.Array, weight: jax.Array, stride: int) -> jax.Array:
    """`convolution.conv_transpose1d`, its output packed by `stride`: ``[B, T, stride * out]``.

    Each pack of the output is a sum of products with the samples of ``x [B, T, in]`` around it.
    """
    c_in, c_out, k = weight.shape
    places, left, right = _places_transposed(k, stride)
    dense = jnp.einsum(
        "cok,qkb->qocb",
        weight.astype(x.dtype),
        jnp.asarray(places, x.dtype),
        precision=lax.Precision.HIGHEST,
    )
    dense = dense.reshape(stride * c_out, c_in, places.shape[2])
    return lax.conv_general_dilated(
        x, dense, (1,), [(left, right)], dimension_numbers=("NWC", "OIW", "NWC")
    )


@functools.lru_cache(maxsize=64)
def _places_transposed(k: int, stride: int) -> tuple[np.ndarray, int, int]:
    """Where each tap stands: 0 or 1, ``[stride, k, samples]``; samples before and after."""
    q, tap = np.indices((stride, k))
    # Output sample q of pack n is tap `tap` of input sample n + (q + start - tap) / stride.
    moved = q + (k - stride) // 2 - tap
    q, tap, moved = (a[moved % stride == 0] for a in (q, tap, moved))
    sample = moved // stride
    places = np.zeros((stride, k, sample.max() - sample.min() + 1))
    places[q, tap, sample - sample.min()] = 1
    return places, -int(sample.min()), int(sample.max())


def _dense(weight: jax.Array, groups: int) -> jax.Array:
    """A grouped convolution's weight, with zeros between the groups: ``[out, in, k]``."""
    if groups == 1:
        return weight
    out, c_in, k = weight.shape
    own = weight.reshape(groups, out // groups, 1, c_in, k)
    same = jnp.eye(groups, dtype=weight.dtype)[:, None, :, None, None]
    return (own * same).reshape(out, groups * c_in, k)


@functools.lru_cache(maxsize=64)
def _places(
    k: int, stride: int, dilation: int, padding: int, into: int, out_of: int
) -> tuple[np.ndarray, int, int]:
    """Where each tap stands: 0 or 1, ``[o, k, i, packs]``; how many packs before and after."""
    # Output sample q of a pack hears input sample e of the pack that begins where its own does.
    e = stride * np.arange(out_of)[:, None] + dilation * np.arange(k) - padding
    pack_of = e // into
    first, last = pack_of.min(), pack_of.max()
    places = np.zeros((out_of, k, into, last - first + 1))
    q, tap = np.indices(e.shape)
    places[q, tap, e % into, pack_of - first] = 1
    step = stride * out_of // into
    return places, -int(first), int(last) - (step - 1)
