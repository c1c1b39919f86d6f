"""Normalising flow from the prior to the latent: couplings backwards, channels reversed between."""

from __future__ import annotations

from vits_jax.config import ModelConfig
from vits_jax.model.flow import N_FLOWS
from vits_jax.voice.graph.builder import Scope, Value
from vits_jax.voice.graph.layers import conv1d
from vits_jax.voice.graph.wavenet import wavenet

_LAYERS = 4


def inverse_flow(at: Scope, config: ModelConfig, x: Value, mask: Value, g: Value | None) -> Value:
    """``x [B, C, F]``, ``mask [B, 1, F]``, ``g [B, G, 1]`` to ``[B, C, F]``."""
    for i in range(2 * N_FLOWS - 2, -1, -2):
        x = _inverse_coupling(at["flows"][i], config, _flip(at["flows"][i + 1], x), mask, g)
    return x


def _flip(at: Scope, x: Value) -> Value:
    """The channels in reverse."""
    first, last, step = at.integers(-1), at.integers(-(2**31)), at.integers(-1)
    return at.op("Slice", x, first, last, at.integers(1), step)


def _inverse_coupling(
    at: Scope, config: ModelConfig, x: Value, mask: Value, g: Value | None
) -> Value:
    x0, x1 = at.split(x, [config.inter_channels // 2] * 2, axis=1)
    h = at.op("Mul", conv1d(at["pre"], x0), mask)
    m = conv1d(at["post"], wavenet(at["enc"], h, mask, g, config.hidden_channels, _LAYERS))
    m = at.op("Mul", m, mask)
    x1 = at.op("Mul", at.op("Sub", x1, m), mask)
    return at.concat(x0, x1, axis=1)
