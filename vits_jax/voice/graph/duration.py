"""Duration predictors: hidden phonemes to log durations, stochastic or plain.

The channels are last here. Only the way from noise to durations is needed.
"""

from __future__ import annotations

import math

import numpy as np

from vits_jax.config import ModelConfig
from vits_jax.model.duration import N_FLOWS
from vits_jax.voice.graph.builder import Scope, Value
from vits_jax.voice.graph.layers import conv1d, gelu, layer_norm, pointwise, transpose
from vits_jax.voice.graph.spline import inverse_spline

_BINS = 10


def log_durations(
    at: Scope, config: ModelConfig, x: Value, mask: Value, g: Value | None, noise_scale: Value
) -> Value:
    """Log durations ``[B, P, 1]`` of hidden text ``x [B, P, H]``.

    Args:
        mask: ``[B, P, 1]``.
        g: speakers ``[B, 1, G]`` or None.
        noise_scale: a scalar; plain durations have no noise.
    """
    if config.use_sdp:
        return _stochastic(at, config, x, mask, g, noise_scale)
    return _plain(at, x, mask, g)


def _stochastic(
    at: Scope, config: ModelConfig, x: Value, mask: Value, g: Value | None, noise_scale: Value
) -> Value:
    x = pointwise(at["pre"], x)
    if g is not None:
        x = at.op("Add", x, pointwise(at["cond"], g))
    x = pointwise(at["proj"], _dds_conv(at["convs"], x, mask))
    x = at.op("Mul", x, mask)

    # Noise of the shape [B, P, 2], not masked, as in Piper.
    pair = at.op("Concat", mask, mask, axis=2)
    z = at.op("Mul", at.op("RandomNormalLike", pair), noise_scale)
    z0, z1 = at.split(z, [1, 1], axis=2)
    # Piper leaves out flows.1, the last spline on the way back, but keeps its Flip.
    for i in range(2 * N_FLOWS - 1, 1, -2):
        z0, z1 = z1, z0  # Flip
        z0, z1 = _inverse_conv_flow(at["flows"][i], config, z0, z1, mask, x)
    z0, z1 = z1, z0
    return _inverse_affine(at["flows"][0], z0, mask)


def _dds_conv(at: Scope, x: Value, mask: Value, k: int = 3, n: int = 3) -> Value:
    """Dilated depth-separable convolutions, dilation 3^i, with residuals: ``[B, P, H]``."""
    for i in range(n):
        y = transpose(at, at.op("Mul", x, mask))
        separable = at["convs_sep"][i]
        y = conv1d(separable, y, groups=len(separable.array("weight")), dilation=k**i)
        y = gelu(at, layer_norm(at["norms_1"][i], transpose(at, y)))
        y = gelu(at, layer_norm(at["norms_2"][i], pointwise(at["convs_1x1"][i], y)))
        x = at.op("Add", x, y)
    return at.op("Mul", x, mask)


def _inverse_conv_flow(
    at: Scope, config: ModelConfig, z0: Value, z1: Value, mask: Value, condition: Value
) -> tuple[Value, Value]:
    """The spline of the second channel backwards; its shape depends on the first."""
    h = at.op("Add", pointwise(at["pre"], z0), condition)
    h = pointwise(at["proj"], _dds_conv(at["convs"], h, mask))
    h = at.op("Mul", h, mask)  # [B, P, 3 * bins - 1]
    sizes, derivatives = at.split(h, [2 * _BINS, _BINS - 1], axis=2)
    sizes = at.op("Mul", sizes, at.number(1 / math.sqrt(config.hidden_channels)))
    sizes = at.op("Reshape", sizes, at.integers(0, 0, 2, _BINS))
    z1 = inverse_spline(at, z1, sizes, derivatives, _BINS)
    return at.op("Mul", z0, mask), at.op("Mul", z1, mask)


def _inverse_affine(at: Scope, z0: Value, mask: Value) -> Value:
    """The first channel of ElementwiseAffine backwards."""
    m, logs = at.array("m")[0, 0], at.array("logs")[0, 0]
    z0 = at.op("Sub", z0, at.parameter("m", m))
    z0 = at.op("Mul", z0, at.parameter("logs", np.exp(-logs)))
    return at.op("Mul", z0, mask)


def _plain(at: Scope, x: Value, mask: Value, g: Value | None) -> Value:
    if g is not None:
        x = at.op("Add", x, pointwise(at["cond"], g))
    for i in (1, 2):
        y = conv1d(at[f"conv_{i}"], transpose(at, at.op("Mul", x, mask)))
        x = layer_norm(at[f"norm_{i}"], transpose(at, at.op("Relu", y)))
    x = pointwise(at["proj"], at.op("Mul", x, mask))
    return at.op("Mul", x, mask)
