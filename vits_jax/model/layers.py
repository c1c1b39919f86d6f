"""Layers whose parameters are named and laid out as PyTorch's.

Weights are ``[out, in / groups, k]`` (transposed convolutions ``[in, out, k]``), signals
``[B, T, C]``. So a layer's parameter tree is Piper's ``state_dict`` as it is. Every
convolution computes in the dtype of its input; parameters stay in theirs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from vits_jax.model.arithmetic import at_least_float32
from vits_jax.model.convolution import conv1d, conv_transpose1d
from vits_jax.model.forms import forms
from vits_jax.model.weight_norm import length, weight_norm

LEAKY_SLOPE = 0.1


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


def biased(y: jax.Array, bias: jax.Array) -> jax.Array:
    """``y [B, ..., C]`` and ``bias [C]`` or ``[B, 1, C]``; of a packed signal, to all its samples.

    Added in the bias's precision where that is best (`Forms.few_sums`), else in the signal's.
    """
    tiled = jnp.tile(bias, y.shape[-1] // bias.shape[-1])
    dtype = jnp.promote_types(y.dtype, bias.dtype) if forms().few_sums else y.dtype
    return (y.astype(dtype) + tiled.astype(dtype)).astype(y.dtype)


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
        return y if self.bias is None else biased(y, self.bias[...])


class WeightNorm(nnx.Module):
    """A weight as direction and length (`weight_norm`); ``g`` starts at ``‖v‖``.

    A base of the layers that have one.
    """

    weight: nnx.Param  # of a folded layer

    def init_weight(
        self, rngs: nnx.Rngs, shape: tuple[int, ...], n_bias: int, bound: float
    ) -> None:
        """Draw bias, ``g`` and ``v`` (PyTorch's order) from U(-bound, bound)."""
        self.bias = uniform(rngs, (n_bias,), bound)
        v = uniform(rngs, shape, bound)
        self.weight_g = nnx.Param(length(v[...]))
        self.weight_v = v

    def fold(self) -> None:
        """Have ``weight`` in place of ``weight_g`` and ``weight_v``, its values the last's."""
        self.weight = self.weight_v
        del self.weight_g, self.weight_v

    def effective(self) -> jax.Array:
        """The weight that the layer computes with."""
        if hasattr(self, "weight"):
            return self.weight[...]
        return weight_norm(self.weight_g[...], self.weight_v[...])


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
            self.effective(),
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            groups=self.groups,
        )
        return biased(y, self.bias[...])


class WeightNormConvTranspose1d(WeightNorm):
    """``weight_norm(ConvTranspose1d)`` that multiplies the length by ``stride``.

    The norm runs over (out, k) for each *input* channel: dimension 0 of ``[in, out, k]``.
    """

    def __init__(self, c_in: int, c_out: int, k: int, stride: int, *, rngs: nnx.Rngs):
        self.stride = stride
        # PyTorch takes fan_in from dimension 1 of [in, out, k].
        self.init_weight(rngs, (c_in, c_out, k), c_out, (c_out * k) ** -0.5)

    def __call__(self, x: jax.Array, *, may_pack: bool = False) -> jax.Array:
        y = conv_transpose1d(x, self.effective(), self.stride, may_pack=may_pack)
        return biased(y, self.bias[...])


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
