"""Layers whose parameters are named and laid out as PyTorch's.

Weights are ``[out, in / groups, k]`` (transposed convolutions ``[in, out, k]``), signals
``[B, T, C]``. So a layer's parameter tree is Piper's ``state_dict`` as it is. Every
convolution computes in the dtype of its input; parameters stay in theirs.

Grouped, depthwise and transposed convolutions are written as matrix products or shifted
sums: XLA:CPU runs those faster than the plain operation (docs/performance.md).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

CONV_DIMENSIONS = ("NWC", "OIW", "NWC")
LEAKY_SLOPE = 0.1


def at_least_float32(x: jax.Array) -> jax.Array:
    """``x [...]`` in float32 or, if it has more, in its own precision."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def total(terms: Iterable[jax.Array]) -> jax.Array:
    """The sum of at least one ``[...]``; `sum` would begin with the int 0."""
    return functools.reduce(operator.add, terms)


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], bound: float) -> nnx.Param:
    """A parameter drawn from U(-bound, bound)."""
    return nnx.Param(bound * (2 * rngs.uniform(shape) - 1))


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """A parameter drawn from N(0, std²)."""
    return nnx.Param(std * rngs.normal(shape))


def zeros(*shape: int) -> nnx.Param:
    """A parameter that starts at zero."""
    return nnx.Param(jnp.zeros(shape))


def leaky_relu(x: jax.Array, slope: float = LEAKY_SLOPE) -> jax.Array:
    """``x [...]`` where positive, ``slope * x`` elsewhere."""
    return jnp.where(x > 0, x, x * slope)


def conv1d(
    x: jax.Array,
    weight: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> jax.Array:
    """PyTorch's ``conv1d`` without bias: ``x [B, T, in]`` to ``[B, T', out]``."""
    left, right = (padding, padding) if isinstance(padding, int) else padding
    weight = weight.astype(x.dtype)
    out, _, k = weight.shape
    if groups > 1 and groups == x.shape[2] == out and stride == 1:
        return _depthwise(x, weight, dilation, left, right)
    if groups > 1 and dilation == 1:
        return _grouped(x, weight, stride, groups, left, right)
    if k == 1 and stride == 1 and left == right == 0 and groups == 1:
        return jnp.einsum("btc,oc->bto", x, weight[:, :, 0])
    return lax.conv_general_dilated(
        x,
        weight,
        (stride,),
        [(left, right)],
        rhs_dilation=(dilation,),
        feature_group_count=groups,
        dimension_numbers=CONV_DIMENSIONS,
    )


def _depthwise(x: jax.Array, weight: jax.Array, dilation: int, left: int, right: int) -> jax.Array:
    """One filter per channel, as a sum of shifted products: no convolution at all."""
    k = weight.shape[2]
    x = jnp.pad(x, ((0, 0), (left, right), (0, 0)))
    length = x.shape[1] - (k - 1) * dilation
    return total(x[:, i * dilation : i * dilation + length] * weight[:, 0, i] for i in range(k))


def _grouped(
    x: jax.Array, weight: jax.Array, stride: int, groups: int, left: int, right: int
) -> jax.Array:
    """Windows side by side in the channels, then one matmul for each group, all at once."""
    out, c_in, k = weight.shape
    batch, length, _ = x.shape
    taps = -(-k // stride)  # blocks of `stride` samples that a window spans
    out_length = (length + left + right - k) // stride + 1
    weight = jnp.pad(weight, ((0, 0), (0, 0), (0, taps * stride - k)))
    weight = weight.reshape(groups, out // groups, c_in, taps * stride).transpose(0, 3, 2, 1)
    weight = weight.reshape(groups, taps * stride * c_in, out // groups)

    blocks = out_length + taps - 1
    missing = max(blocks * stride - left - length, 0)
    x = jnp.pad(x, ((0, 0), (left, missing), (0, 0)))[:, : blocks * stride]
    x = x.reshape(batch, blocks, stride, groups, c_in).transpose(3, 0, 1, 2, 4)
    x = x.reshape(groups, batch, blocks, stride * c_in)
    windows = jnp.concatenate([x[:, :, i : i + out_length] for i in range(taps)], axis=3)
    y = jnp.einsum("gbti,gio->gbto", windows, weight)
    return y.transpose(1, 2, 0, 3).reshape(batch, out_length, out)


def conv_transpose1d(x: jax.Array, weight: jax.Array, stride: int) -> jax.Array:
    """PyTorch's ``conv_transpose1d(padding=(k - stride) // 2)``, to ``[B, T', out]``.

    Polyphase: ``ceil(k / stride)`` matmuls give all ``stride`` phases at once, side by
    side in the channels, and a reshape interleaves them. The plain operation convolves
    a signal that is mostly zeros.
    """
    c_in, c_out, k = weight.shape
    batch, length, _ = x.shape
    taps, start = -(-k // stride), (k - stride) // 2
    weight = jnp.pad(weight.astype(x.dtype), ((0, 0), (0, 0), (0, taps * stride - k)))
    weight = weight.reshape(c_in, c_out, taps, stride).transpose(2, 0, 3, 1)
    weight = weight[::-1].reshape(taps, c_in, stride * c_out)
    x = jnp.pad(x, ((0, 0), (taps - 1, taps - 1), (0, 0)))
    spread = length + taps - 1
    y = total(x[:, i : i + spread] @ weight[i] for i in range(taps))
    out_length = (length - 1) * stride + k - 2 * start
    return y.reshape(batch, spread * stride, c_out)[:, start : start + out_length]


class Conv1d(nnx.Module):
    """``torch.nn.Conv1d``; ``padding`` defaults to "same" for odd kernels."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        k: int = 1,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        padding: int | tuple[int, int] | None = None,
        bias: bool = True,
        init: str = "uniform",
    ):
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = dilation * (k - 1) // 2 if padding is None else padding
        shape, fan_in = (c_out, c_in // groups, k), c_in // groups * k
        self.bias: nnx.Param | None
        if init == "zeros":
            self.weight, self.bias = zeros(*shape), zeros(c_out)
            return
        if init == "xavier":
            self.weight = uniform(rngs, shape, math.sqrt(6 / (fan_in + c_out * k)))
        else:
            self.weight = uniform(rngs, shape, fan_in**-0.5)
        self.bias = uniform(rngs, (c_out,), fan_in**-0.5) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv1d(
            x,
            self.weight[...],
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            groups=self.groups,
        )
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)


class WeightNorm(nnx.Module):
    """A weight as direction and length, ``w = g · v / ‖v‖`` (Salimans & Kingma 2016, eq. 2).

    The norm is over all but the first dimension, as ``torch.nn.utils.weight_norm``'s;
    ``g`` starts at ``‖v‖``. A base of the layers that have one.
    """

    def init_weight(
        self, rngs: nnx.Rngs, shape: tuple[int, ...], n_bias: int, bound: float
    ) -> None:
        """Draw bias, ``g`` and ``v`` (PyTorch's order) from U(-bound, bound)."""
        self.bias = uniform(rngs, (n_bias,), bound)
        v = uniform(rngs, shape, bound)
        self.weight_g = nnx.Param(_norm(v[...]))
        self.weight_v = v

    @property
    def weight(self) -> jax.Array:
        """The effective weight, of ``weight_v``'s shape, in the parameters' precision."""
        v = self.weight_v[...]
        return v * (self.weight_g[...] / _norm(v))


def _norm(v: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(v * v, axis=tuple(range(1, v.ndim)), keepdims=True))


class WeightNormConv1d(WeightNorm):
    """``weight_norm(Conv1d)`` with "same" padding unless told otherwise."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        k: int = 1,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ):
        self.stride, self.dilation, self.groups = stride, dilation, groups
        self.padding = dilation * (k - 1) // 2
        fan_in = c_in // groups * k
        self.init_weight(rngs, (c_out, c_in // groups, k), c_out, fan_in**-0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv1d(
            x,
            self.weight,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            groups=self.groups,
        )
        return y + self.bias[...].astype(y.dtype)


class WeightNormConvTranspose1d(WeightNorm):
    """``weight_norm(ConvTranspose1d)`` that multiplies the length by ``stride``.

    The norm runs over (out, k) for each *input* channel: dimension 0 of ``[in, out, k]``.
    """

    def __init__(self, c_in: int, c_out: int, k: int, stride: int, *, rngs: nnx.Rngs):
        self.stride = stride
        # PyTorch takes fan_in from dimension 1 of [in, out, k].
        self.init_weight(rngs, (c_in, c_out, k), c_out, (c_out * k) ** -0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv_transpose1d(x, self.weight, self.stride)
        return y + self.bias[...].astype(y.dtype)


class LayerNorm(nnx.Module):
    """Normalisation over channels, epsilon 1e-5, statistics in float32 (Ba et al. 2016)."""

    def __init__(self, channels: int):
        self.gamma = nnx.Param(jnp.ones(channels))
        self.beta = zeros(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = at_least_float32(x)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-5)
        return (y * self.gamma[...] + self.beta[...]).astype(x.dtype)


class Embedding(nnx.Module):
    """A table of rows, N(0, std²)."""

    def __init__(self, rows: int, channels: int, std: float, *, rngs: nnx.Rngs):
        self.weight = normal(rngs, (rows, channels), std)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.weight[...][ids]


def length_mask(lengths: jax.Array, size: int, dtype: jnp.dtype) -> jax.Array:
    """``[B, size, 1]``: 1 before each row's length, 0 from there on."""
    return (jnp.arange(size, dtype=lengths.dtype) < lengths[:, None])[:, :, None].astype(dtype)
