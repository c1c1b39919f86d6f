"""Convolutions, the one-dimensional ones in the form that a platform runs best (`forms`).

Signals are ``[B, T, C]``, weights PyTorch's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from vits_jax.model.arithmetic import total
from vits_jax.model.forms import forms
from vits_jax.model.packed import (
    pack,
    packed_conv1d,
    packed_conv_transpose1d,
    packing,
    unpack,
)

DIMENSIONS = ("NWC", "OIW", "NWC")


def conv1d(
    x: jax.Array,
    weight: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> jax.Array:
    """PyTorch's ``conv1d`` without bias: ``x [B, T, in]`` to ``[B, T', out]``.

    A packed signal gives a packed one, if that helps (`packed`).
    """
    if forms().lanes and x.shape[2] > weight.shape[1] * groups:
        assert isinstance(padding, int)
        return _packed(x, weight, stride, dilation, padding, groups)
    left, right = (padding, padding) if isinstance(padding, int) else padding
    weight = weight.astype(x.dtype)
    out, _, k = weight.shape
    if groups > 1 and groups == x.shape[2] == out and stride == 1:
        return _depthwise(x, weight, dilation, left, right)
    if groups > 1 and dilation == 1 and forms().windows:
        return _grouped(x, weight, stride, groups, left, right)
    if groups > 1 and dilation == 1 and stride > 1 and x.shape[2] <= forms().dense:
        return _dense(x, weight, stride, groups, left, right)
    if groups == stride == 1 and dilation > 1 and forms().phases:
        return _dilated(x, weight, dilation, left, right)
    if k == 1 and stride == 1 and left == right == 0 and groups == 1:
        return jnp.einsum("btc,oc->bto", x, weight[:, :, 0])
    return lax.conv_general_dilated(
        x,
        weight,
        (stride,),
        [(left, right)],
        rhs_dilation=(dilation,),
        feature_group_count=groups,
        dimension_numbers=DIMENSIONS,
    )


def conv2d(
    x: jax.Array, weight: jax.Array, *, stride: tuple[int, int], padding: tuple[int, int]
) -> jax.Array:
    """PyTorch's ``conv2d`` without bias: ``x [B, H, W, in]`` to ``[B, H', W', out]``."""
    return lax.conv_general_dilated(
        x,
        weight.astype(x.dtype),
        stride,
        [(size, size) for size in padding],
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
    )


def _packed(
    x: jax.Array, weight: jax.Array, stride: int, dilation: int, padding: int, groups: int
) -> jax.Array:
    out, c_in, k = weight.shape
    into = x.shape[2] // (c_in * groups)
    length = x.shape[1] * into
    out_of = packing(out, length // stride)
    whole = (length + 2 * padding - dilation * (k - 1) - 1) // stride + 1 == length / stride
    how = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    if whole and out_of > 1 and stride * out_of % into == 0:
        return packed_conv1d(x, weight, packed=(into, out_of), **how)
    return conv1d(unpack(x, c_in * groups), weight, **how)


def _depthwise(x: jax.Array, weight: jax.Array, dilation: int, left: int, right: int) -> jax.Array:
    """One filter per channel, as a sum of shifted products: no convolution at all."""
    k = weight.shape[2]
    x = jnp.pad(x, ((0, 0), (left, right), (0, 0)))
    length = x.shape[1] - (k - 1) * dilation
    taps = [x[:, i * dilation : i * dilation + length] for i in range(k)]
    if forms().few_sums:
        return jnp.sum(jnp.stack(taps) * weight[:, 0].T[:, None, None], axis=0)
    return total(tap * weight[:, 0, i] for i, tap in enumerate(taps))


def _grouped(
    x: jax.Array, weight: jax.Array, stride: int, groups: int, left: int, right: int
) -> jax.Array:
    """Windows side by side in the channels, then one matmul for each group, all at once."""
    out, c_in, k = weight.shape
    batch, length, _ = x.shape
    taps = -(-k // stride)
    weight = jnp.pad(weight, ((0, 0), (0, 0), (0, taps * stride - k)))
    weight = weight.reshape(groups, out // groups, c_in, taps * stride).transpose(0, 3, 2, 1)
    weight = weight.reshape(groups, taps * stride * c_in, out // groups)

    out_length = (length + left + right - k) // stride + 1
    x = _blocks(x, stride, taps, left, out_length)
    x = x.reshape(batch, -1, stride, groups, c_in).transpose(3, 0, 1, 2, 4)
    x = x.reshape(groups, batch, -1, stride * c_in)
    windows = jnp.concatenate([x[:, :, i : i + out_length] for i in range(taps)], axis=3)
    y = jnp.einsum("gbti,gio->gbto", windows, weight)
    return y.transpose(1, 2, 0, 3).reshape(batch, out_length, out)


def _blocks(x: jax.Array, stride: int, taps: int, left: int, out_length: int) -> jax.Array:
    """``[B, T, C]`` as blocks of `stride` samples side by side; a window spans `taps` of them."""
    batch, length, channels = x.shape
    blocks = out_length + taps - 1
    missing = max(blocks * stride - left - length, 0)
    x = jnp.pad(x, ((0, 0), (left, missing), (0, 0)))[:, : blocks * stride]
    return x.reshape(batch, blocks, stride * channels)


def _dense(
    x: jax.Array, weight: jax.Array, stride: int, groups: int, left: int, right: int
) -> jax.Array:
    """A plain convolution over blocks of `stride` samples, with zeros between the groups."""
    out, c_in, k = weight.shape
    taps = -(-k // stride)
    weight = jnp.pad(weight, ((0, 0), (0, 0), (0, taps * stride - k)))
    weight = weight.reshape(groups, out // groups, c_in, taps, stride).transpose(0, 1, 4, 2, 3)
    own = jnp.eye(groups, dtype=weight.dtype)[:, None, None, :, None, None]
    weight = weight[:, :, :, None] * own  # [groups, out / groups, stride, groups, c_in, taps]
    return lax.conv_general_dilated(
        _blocks(x, stride, taps, left, (x.shape[1] + left + right - k) // stride + 1),
        weight.reshape(out, stride * groups * c_in, taps),
        (1,),
        "VALID",
        dimension_numbers=DIMENSIONS,
    )


def _dilated(x: jax.Array, weight: jax.Array, dilation: int, left: int, right: int) -> jax.Array:
    """A plain convolution over each phase of the signal; the phases are an axis of an image."""
    batch, length, c_in = x.shape
    out_length = length + left + right - (weight.shape[2] - 1) * dilation
    missing = -(length + left + right) % dilation
    x = jnp.pad(x, ((0, 0), (left, right + missing), (0, 0)))
    image = x.reshape(batch, -1, dilation, c_in)
    y = lax.conv_general_dilated(
        image, weight[:, :, :, None], (1, 1), "VALID", dimension_numbers=("NHWC", "OIHW", "NHWC")
    )
    return y.reshape(batch, -1, weight.shape[0])[:, :out_length]


def conv_transpose1d(
    x: jax.Array, weight: jax.Array, stride: int, *, may_pack: bool = False
) -> jax.Array:
    """PyTorch's ``conv_transpose1d(padding=(k - stride) // 2)``, to ``[B, T', out]``.

    With `may_pack` the output is packed, if that helps (`packed`); the input may be.

    Polyphase: ``ceil(k / stride)`` matmuls give all ``stride`` phases at once, side by
    side in the channels, and a reshape interleaves them. The plain operation convolves
    a signal that is mostly zeros.
    """
    c_in, c_out, k = weight.shape
    x = unpack(x, c_in)
    batch, length, _ = x.shape
    by = packing(c_out, length * stride) if may_pack else 1
    if by > 1 and (k - stride) % 2 == 0:
        return pack(unpack(packed_conv_transpose1d(x, weight, stride), c_out), by)
    taps, start = -(-k // stride), (k - stride) // 2
    weight = jnp.pad(weight.astype(x.dtype), ((0, 0), (0, 0), (0, taps * stride - k)))
    weight = weight.reshape(c_in, c_out, taps, stride).transpose(2, 0, 3, 1)
    weight = weight[::-1].reshape(taps, c_in, stride * c_out)
    x = jnp.pad(x, ((0, 0), (taps - 1, taps - 1), (0, 0)))
    spread = length + taps - 1
    y = total(x[:, i : i + spread] @ weight[i] for i in range(taps))
    out_length = (length - 1) * stride + k - 2 * start
    return y.reshape(batch, spread * stride, c_out)[:, start : start + out_length]
