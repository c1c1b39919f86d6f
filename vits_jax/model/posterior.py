"""Posterior encoder: spectrogram to the latent variable's distribution (VITS, 2.2.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.config import ModelConfig
from vits_jax.model.arithmetic import at_least_float32
from vits_jax.model.layers import Conv1d, length_mask
from vits_jax.model.randomness import Randomness
from vits_jax.model.wavenet import WN


class PosteriorEncoder(nnx.Module):
    """16 WaveNet blocks between two 1x1 convolutions."""

    def __init__(self, config: ModelConfig, spec_channels: int, *, rngs: nnx.Rngs):
        hidden = config.hidden_channels
        self.pre = Conv1d(spec_channels, hidden, rngs=rngs)
        self.enc = WN(hidden, 5, 16, config.gin_channels, rngs=rngs)
        self.proj = Conv1d(hidden, config.inter_channels * 2, rngs=rngs)

    def __call__(
        self, spec: jax.Array, lengths: jax.Array, g: jax.Array | None, random: Randomness
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Encode ``spec [B, F, spec_channels]`` of ``lengths [B]`` frames.

        Returns:
            a sample, mean and log-scale ``[B, F, C]``, in float32 or more, mask ``[B, F, 1]``.
        """
        mask = length_mask(lengths, spec.shape[1], spec.dtype)
        x = self.enc(self.pre(spec) * mask, mask, g)
        m, logs = jnp.split(at_least_float32(self.proj(x) * mask), 2, axis=2)
        noise = random.normal("enc_q", m.shape[1:], m.dtype)
        return (m + noise * jnp.exp(logs)) * mask.astype(m.dtype), m, logs, mask
