"""Layers, as `vits_jax.model.layers` has them; weight norm is folded into the weights."""

from __future__ import annotations

import math

import numpy as np

from vits_jax.model.layers import LEAKY_SLOPE
from vits_jax.voice.graph.builder import Scope, Value


def weight(at: Scope) -> np.ndarray:
    """A layer's effective weight ``[out, in, k]``: ``g · v / ‖v‖`` where it is normalised."""
    if "weight" in at:
        return at.array("weight")
    v = at.array("weight_v").astype(np.float64)
    norm = np.sqrt(np.sum(v * v, axis=tuple(range(1, v.ndim)), keepdims=True))
    return (v * (at.array("weight_g") / norm)).astype(np.float32)


def conv1d(
    at: Scope,
    x: Value,
    *,
    dilation: int = 1,
    groups: int = 1,
    padding: tuple[int, int] | None = None,
    gain: float = 1.0,
) -> Value:
    """``x [B, in, T]`` to ``[B, out, T]``; the weight times `gain`."""
    array = weight(at) * np.float32(gain)
    k = array.shape[2]
    same = dilation * (k - 1) // 2
    inputs = [x, at.parameter("weight", array)]
    if "bias" in at:
        inputs.append(at.parameter("bias"))
    return at.op(
        "Conv",
        *inputs,
        kernel_shape=[k],
        dilations=[dilation],
        group=groups,
        pads=list(padding or (same, same)),
    )


def conv_transpose1d(at: Scope, x: Value, stride: int, *, gain: float = 1.0) -> Value:
    """``x [B, in, T]`` to ``[B, out, T * stride]``; the weight times `gain`."""
    array = weight(at) * np.float32(gain)
    k = array.shape[2]
    pad = (k - stride) // 2
    return at.op(
        "ConvTranspose",
        x,
        at.parameter("weight", array),
        at.parameter("bias"),
        kernel_shape=[k],
        strides=[stride],
        pads=[pad, pad],
    )


def pointwise(at: Scope, x: Value) -> Value:
    """A convolution of width 1 where the channels are last: ``[B, T, in]`` to ``[B, T, out]``."""
    y = at.op("MatMul", x, at.parameter("weight", weight(at)[:, :, 0].T))
    return at.op("Add", y, at.parameter("bias"))


def layer_norm(at: Scope, x: Value) -> Value:
    """Normalisation over the last axis; onnxruntime knows this form as one operation."""
    centred = at.op("Sub", x, at.op("ReduceMean", x, axes=[-1], keepdims=1))
    square = at.op("Pow", centred, at.number(2.0))
    variance = at.op("ReduceMean", square, axes=[-1], keepdims=1)
    deviation = at.op("Sqrt", at.op("Add", variance, at.number(1e-5)))
    y = at.op("Mul", at.op("Div", centred, deviation), at.parameter("gamma"))
    return at.op("Add", y, at.parameter("beta"))


def gelu(at: Scope, x: Value) -> Value:
    """Exact GELU; onnxruntime knows this form as one operation."""
    error = at.op("Erf", at.op("Div", x, at.number(math.sqrt(2))))
    y = at.op("Mul", x, at.op("Add", error, at.number(1.0)))
    return at.op("Mul", y, at.number(0.5))


def leaky_relu(at: Scope, x: Value, slope: float = LEAKY_SLOPE) -> Value:
    """``x`` where positive, ``slope * x`` elsewhere."""
    return at.op("LeakyRelu", x, alpha=slope)


def transpose(at: Scope, x: Value) -> Value:
    """``[B, C, T]`` to ``[B, T, C]``, and back."""
    return at.op("Transpose", x, perm=[0, 2, 1])


def length_mask(at: Scope, lengths: Value, size: Value) -> Value:
    """float32 ``[B, size]``: 1 before each row's length (int64 ``[B]``), 0 from there on."""
    position = at.op("Range", at.integer(0), at.op("Squeeze", size), at.integer(1))
    inside = at.op("Less", position, at.op("Unsqueeze", lengths, at.integers(1)))
    return at.op("Cast", inside, to=1)
