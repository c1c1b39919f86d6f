"""Decoder: latent frames to audio, the generator of HiFi-GAN (Kong et al. 2020)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.config import ModelConfig
from vits_jax.model.arithmetic import at_least_float32, total
from vits_jax.model.layers import Conv1d, WeightNormConv1d, WeightNormConvTranspose1d, leaky_relu


class ResBlock1(nnx.Module):
    """Pairs of a dilated and a plain convolution, each pair with a residual."""

    def __init__(self, channels: int, k: int, dilations: tuple[int, ...], *, rngs: nnx.Rngs):
        self.convs1 = nnx.List(
            [WeightNormConv1d(channels, channels, k, dilation=d, rngs=rngs) for d in dilations]
        )
        self.convs2 = nnx.List(
            [WeightNormConv1d(channels, channels, k, rngs=rngs) for _ in dilations]
        )

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        for dilated, plain in zip(self.convs1, self.convs2):
            x = ended(x + plain(leaky_relu(ended(dilated(leaky_relu(x)), mask))), mask)
        return x


class ResBlock2(nnx.Module):
    """Dilated convolutions, each with a residual."""

    def __init__(self, channels: int, k: int, dilations: tuple[int, ...], *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            [WeightNormConv1d(channels, channels, k, dilation=d, rngs=rngs) for d in dilations]
        )

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        for conv in self.convs:
            x = ended(x + conv(leaky_relu(x)), mask)
        return x


def ended(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """``x [B, T, C]``, zero where ``mask [B, T, 1]``, if there is one, is."""
    return x if mask is None else x * mask


class Generator(nnx.Module):
    """Upsampling by transposed convolutions, each followed by the mean of several blocks."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        channels = config.upsample_initial_channel
        self.conv_pre = Conv1d(config.inter_channels, channels, 7, rngs=rngs)
        self.ups: nnx.List[WeightNormConvTranspose1d] = nnx.List()
        self.resblocks: nnx.List[ResBlock1 | ResBlock2] = nnx.List()
        block = ResBlock1 if config.resblock == "1" else ResBlock2
        for rate, k in zip(config.upsample_rates, config.upsample_kernel_sizes):
            self.ups.append(WeightNormConvTranspose1d(channels, channels // 2, k, rate, rngs=rngs))
            channels //= 2
            for block_k, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilation_sizes
            ):
                self.resblocks.append(block(channels, block_k, dilations, rngs=rngs))
        self.conv_post = Conv1d(channels, 1, 7, bias=False, rngs=rngs)
        self.cond = (
            Conv1d(config.gin_channels, config.upsample_initial_channel, rngs=rngs)
            if config.gin_channels
            else None
        )

    def __call__(
        self, z: jax.Array, g: jax.Array | None, mask: jax.Array | None = None
    ) -> jax.Array:
        """``z [B, F, C]`` and ``g [B, 1, G]`` to audio ``[B, F * hop]`` in [-1, 1].

        With ``mask [B, F, 1]`` each row sounds as it would alone, without its padding: every
        convolution finds the zeros after the end that padding the signal itself would give.
        """
        x = self.conv_pre(z)
        if g is not None and self.cond is not None:
            x = x + self.cond(g)
        x = ended(x, mask)
        per_stage = len(self.resblocks) // len(self.ups)
        for i, up in enumerate(self.ups):
            x = up(leaky_relu(x), may_pack=mask is None)
            if mask is not None:
                mask = jnp.repeat(mask, x.shape[1] // mask.shape[1], axis=1)
            x = ended(x, mask)
            blocks = self.resblocks[i * per_stage : (i + 1) * per_stage]
            x = total(block(x, mask) for block in blocks) / per_stage
        x = leaky_relu(x, 0.01)  # PyTorch's default here, not the 0.1 of the other layers
        # A sample has no fewer bits than a recording's.
        return jnp.tanh(self.conv_post(at_least_float32(x))).reshape(x.shape[0], -1)
