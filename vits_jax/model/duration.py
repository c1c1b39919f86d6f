"""Duration predictors: phonemes to frames per phoneme, stochastic or plain.

The stochastic one is a conditional flow with variational dequantisation and
augmentation (VITS, 2.2.2 and appendix A); the plain one is FastSpeech's regression.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.config import ModelConfig
from vits_jax.model.arithmetic import at_least_float32
from vits_jax.model.layers import Conv1d, LayerNorm, zeros
from vits_jax.model.randomness import Randomness
from vits_jax.model.spline import rational_quadratic_spline

P_DROPOUT = 0.5
N_FLOWS = 4
LOG_2PI = math.log(2 * math.pi)


class DDSConv(nnx.Module):
    """Dilated depth-separable convolutions, dilation 3^i, with residuals."""

    def __init__(self, channels: int, p_dropout: float, *, rngs: nnx.Rngs, k: int = 3, n: int = 3):
        self.p_dropout = p_dropout
        self.convs_sep = nnx.List(
            [
                Conv1d(channels, channels, k, groups=channels, dilation=k**i, rngs=rngs)
                for i in range(n)
            ]
        )
        self.convs_1x1 = nnx.List([Conv1d(channels, channels, rngs=rngs) for _ in range(n)])
        self.norms_1 = nnx.List([LayerNorm(channels) for _ in range(n)])
        self.norms_2 = nnx.List([LayerNorm(channels) for _ in range(n)])

    def __call__(self, x: jax.Array, mask: jax.Array, random: Randomness, name: str) -> jax.Array:
        """``x [B, P, H]``, ``mask [B, P, 1]`` to ``[B, P, H]``."""
        layers = zip(self.convs_sep, self.norms_1, self.convs_1x1, self.norms_2)
        for i, (separable, norm_1, pointwise, norm_2) in enumerate(layers):
            y = jax.nn.gelu(norm_1(separable(x * mask)), approximate=False)
            y = jax.nn.gelu(norm_2(pointwise(y)), approximate=False)
            x = x + random.dropout(f"{name}.drop.{i}", y, self.p_dropout)
        return x * mask


class ElementwiseAffine(nnx.Module):
    """A shift and a scale for each channel of ``z [B, P, 2]``."""

    def __init__(self) -> None:
        self.m, self.logs = zeros(2, 1), zeros(2, 1)

    def __call__(self, z: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``z`` forwards, and the log-determinant ``[B]``."""
        logs = self.logs[...][:, 0]
        z = (self.m[...][:, 0] + jnp.exp(logs) * z) * mask
        return z, jnp.sum(logs * mask, axis=(1, 2))

    def reverse(self, z: jax.Array, mask: jax.Array) -> jax.Array:
        """``z [B, P, 2]`` backwards, the same shape."""
        return (z - self.m[...][:, 0]) * jnp.exp(-self.logs[...][:, 0]) * mask


class ConvFlow(nnx.Module):
    """A spline of the second channel whose shape depends on the first (10 bins, tails at ±5)."""

    def __init__(self, hidden: int, *, rngs: nnx.Rngs, bins: int = 10):
        self.hidden, self.bins = hidden, bins
        self.pre = Conv1d(1, hidden, rngs=rngs)
        self.convs = DDSConv(hidden, 0.0, rngs=rngs)
        self.proj = Conv1d(hidden, 3 * bins - 1, init="zeros", rngs=rngs)

    def __call__(
        self,
        z: jax.Array,
        mask: jax.Array,
        condition: jax.Array,
        random: Randomness,
        *,
        reverse: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """``z [B, P, 2]`` under ``condition [B, P, H]``, and the log-determinant ``[B]``."""
        z0, z1 = z[:, :, :1], z[:, :, 1]
        h = self.convs(self.pre(z0) + condition, mask, random, "")
        h = self.proj(h) * mask  # [B, P, 3 * bins - 1]
        widths, heights, derivatives = jnp.split(h, [self.bins, 2 * self.bins], axis=2)
        scale = 1 / math.sqrt(self.hidden)
        z1, log_slope = rational_quadratic_spline(
            z1, widths * scale, heights * scale, derivatives, inverse=reverse
        )
        z = jnp.concatenate([z0, z1[:, :, None]], axis=2) * mask
        return z, jnp.sum(log_slope * mask[:, :, 0], axis=1)


class Flip(nnx.Module):
    """Stands for the swapped channels after each spline: no parameters, but a number."""


def _flows(hidden: int, *, rngs: nnx.Rngs) -> nnx.List:
    flows: nnx.List[Any] = nnx.List([ElementwiseAffine()])
    for _ in range(N_FLOWS):
        flows.append(ConvFlow(hidden, rngs=rngs))
        flows.append(Flip())
    return flows


def _through(
    flows: nnx.List, z: jax.Array, mask: jax.Array, condition: jax.Array, random: Randomness
) -> tuple[jax.Array, jax.Array]:
    """``z [B, P, 2]`` through all flows, and the log-determinant ``[B]``."""

    z, total = flows[0](z, mask)
    for flow in flows[1::2]:
        z, log_det = flow(z, mask, condition, random)
        z, total = jnp.flip(z, axis=2), total + log_det
    return z, total


class StochasticDurationPredictor(nnx.Module):
    """Likelihood of durations, and samples from it. Runs in float32 or more."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden = config.hidden_channels
        self.flows = _flows(hidden, rngs=rngs)
        self.post_pre = Conv1d(1, hidden, rngs=rngs)
        self.post_proj = Conv1d(hidden, hidden, rngs=rngs)
        self.post_convs = DDSConv(hidden, P_DROPOUT, rngs=rngs)
        self.post_flows = _flows(hidden, rngs=rngs)
        self.pre = Conv1d(hidden, hidden, rngs=rngs)
        self.proj = Conv1d(hidden, hidden, rngs=rngs)
        self.convs = DDSConv(hidden, P_DROPOUT, rngs=rngs)
        self.cond = Conv1d(config.gin_channels, hidden, rngs=rngs) if config.gin_channels else None

    def _condition(
        self, x: jax.Array, mask: jax.Array, g: jax.Array | None, random: Randomness
    ) -> jax.Array:
        # Durations train only their own predictor: no gradient to text or speaker.
        x = self.pre(at_least_float32(jax.lax.stop_gradient(x)))
        if g is not None and self.cond is not None:
            x = x + self.cond(at_least_float32(jax.lax.stop_gradient(g)))
        return self.proj(self.convs(x, mask, random, "dp.convs")) * mask

    def negative_log_likelihood(
        self, x: jax.Array, mask: jax.Array, g: jax.Array | None, w: jax.Array, random: Randomness
    ) -> jax.Array:
        """Upper bound of ``-log p(w | x)`` per row (eq. 12 of the appendix).

        Args:
            x: hidden text ``[B, P, H]``.
            mask: ``[B, P, 1]``.
            g: speakers ``[B, 1, G]`` or None.
            w: durations ``[B, P, 1]``, frames.
            random: noise "dp" ``[P, 2]``, dropout.

        Returns:
            nats, ``[B]``.
        """
        mask, w = at_least_float32(mask), at_least_float32(w)
        x = self._condition(x, mask, g, random)

        # Posterior over (u, v): u makes the integer durations continuous, v adds a channel.
        h = self.post_convs(self.post_pre(w), mask, random, "dp.post_convs")
        h = self.post_proj(h) * mask
        noise = random.normal("dp", (w.shape[1], 2), w.dtype) * mask
        z, log_det_q = _through(self.post_flows, noise, mask, x + h, random)
        z_u, z_v = z[:, :, :1], z[:, :, 1:]
        u = jax.nn.sigmoid(z_u) * mask
        squash = (jax.nn.log_sigmoid(z_u) + jax.nn.log_sigmoid(-z_u)) * mask
        log_det_q = log_det_q + jnp.sum(squash, axis=(1, 2))
        log_q = _log_normal(noise, mask) - log_det_q

        # Likelihood of (log(w - u), v) under the flow.
        log_w = jnp.log(jnp.maximum((w - u) * mask, 1e-5)) * mask
        z = jnp.concatenate([log_w, z_v], axis=2)
        z, log_det_p = _through(self.flows, z, mask, x, random)
        return log_q - _log_normal(z, mask) - (log_det_p - jnp.sum(log_w, axis=(1, 2)))

    def log_durations(
        self,
        x: jax.Array,
        mask: jax.Array,
        g: jax.Array | None,
        random: Randomness,
        noise_scale: float | jax.Array,
    ) -> jax.Array:
        """Sample log durations ``[B, P, 1]``; noise "dp" ``[P, 2]`` is not masked, as in Piper."""
        mask = at_least_float32(mask)
        x = self._condition(x, mask, g, random)
        z = random.normal("dp", (x.shape[1], 2), x.dtype) * noise_scale
        # Piper leaves out flows.1, the last spline on the way back, but keeps its Flip.
        for flow in self.flows[3::2][::-1]:
            z = flow(jnp.flip(z, axis=2), mask, x, random, reverse=True)[0]
        return self.flows[0].reverse(jnp.flip(z, axis=2), mask)[:, :, :1]


def _log_normal(z: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-density of ``z [B, P, C]`` under N(0, 1), summed where the mask is 1: ``[B]``."""
    return jnp.sum(-0.5 * (LOG_2PI + z * z) * mask, axis=(1, 2))


class DurationPredictor(nnx.Module):
    """Two convolutions that predict log durations. Runs in float32 or more."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden, wide, k = config.hidden_channels, 256, 3
        self.conv_1 = Conv1d(hidden, wide, k, rngs=rngs)
        self.norm_1 = LayerNorm(wide)
        self.conv_2 = Conv1d(wide, wide, k, rngs=rngs)
        self.norm_2 = LayerNorm(wide)
        self.proj = Conv1d(wide, 1, rngs=rngs)
        self.cond = Conv1d(config.gin_channels, hidden, rngs=rngs) if config.gin_channels else None

    def log_durations(
        self,
        x: jax.Array,
        mask: jax.Array,
        g: jax.Array | None,
        random: Randomness,
        noise_scale: float | jax.Array = 0.0,
    ) -> jax.Array:
        """Log durations ``[B, P, 1]`` of hidden text ``x [B, P, H]``; no noise enters."""
        mask = at_least_float32(mask)
        x = at_least_float32(jax.lax.stop_gradient(x))
        if g is not None and self.cond is not None:
            x = x + self.cond(at_least_float32(jax.lax.stop_gradient(g)))
        x = self.norm_1(jax.nn.relu(self.conv_1(x * mask)))
        x = random.dropout("dp.drop.0", x, P_DROPOUT)
        x = self.norm_2(jax.nn.relu(self.conv_2(x * mask)))
        x = random.dropout("dp.drop.1", x, P_DROPOUT)
        return self.proj(x * mask) * mask

    def negative_log_likelihood(
        self, x: jax.Array, mask: jax.Array, g: jax.Array | None, w: jax.Array, random: Randomness
    ) -> jax.Array:
        """Squared error of the log durations ``w [B, P, 1]``, summed per row: ``[B]``."""
        mask = at_least_float32(mask)
        target = jnp.log(at_least_float32(w) + 1e-6) * mask
        error = self.log_durations(x, mask, g, random) - target
        return jnp.sum(error * error, axis=(1, 2))
