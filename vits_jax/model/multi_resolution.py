"""Discriminators of spectra: STFT magnitudes at several resolutions (`--use-mrd`).

UnivNet's (Jang et al. 2021, arXiv 2106.07889), which Vocos has beside the multi-period ones too
(Siuzdak 2023, arXiv 2306.00814). Each judges the magnitudes at one resolution by 2-D
convolutions, frequency by time, of which some halve the time.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.config import MRD_RESOLUTIONS, ModelConfig
from vits_jax.model.audio import stft
from vits_jax.model.convolution import conv2d
from vits_jax.model.discriminator import Discriminator, Features, MultiPeriodDiscriminator
from vits_jax.model.layers import LEAKY_SLOPE, WeightNorm, biased, leaky_relu

_WIDTH = 32  # of every layer
_KERNEL = (3, 9)  # frequency, time
_TIME_STRIDES = (1, 2, 2, 2)  # of the layers with that kernel


def magnitudes(audio: jax.Array, n_fft: int, hop: int, window: int) -> jax.Array:
    """``|STFT|`` of ``audio [B, T]``, reflected at both ends: ``[B, n_fft // 2 + 1, frames]``.

    There is no epsilon in it. Where a magnitude is zero its gradient is, too: as PyTorch has it,
    and finite where a frame is silent.
    """
    pad = (n_fft - hop) // 2
    padded = jnp.pad(audio, ((0, 0), (pad, pad)), mode="reflect")
    real, imaginary = stft(padded, n_fft, hop, window)
    square = real**2 + imaginary**2
    # The root has an infinite slope at zero: it must not even be taken there.
    sounds = square > 0
    magnitude = jnp.where(sounds, jnp.sqrt(jnp.where(sounds, square, 1)), 0)
    return magnitude.swapaxes(1, 2)


class SpectralConv(WeightNorm):
    """A weight-normalised 2-D convolution with "same" padding, ``[out, in, height, width]``."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: tuple[int, int],
        *,
        rngs: nnx.Rngs,
        time_stride: int = 1,
    ):
        height, width = kernel
        self.stride = (1, time_stride)
        self.padding = (height // 2, width // 2)
        shape = (c_out, c_in, height, width)
        self.init_weight(rngs, shape, c_out, (c_in * height * width) ** -0.5)

    def linear(self, x: jax.Array) -> jax.Array:
        """The convolution without its bias, ``[B, F, T, in]`` to ``[B, F, T', out]``."""
        return conv2d(x, self.effective(), stride=self.stride, padding=self.padding)

    def __call__(self, x: jax.Array) -> jax.Array:
        return biased(self.linear(x), self.bias[...])


class ResolutionDiscriminator(Discriminator):
    """Judges the magnitudes at one resolution; feature maps are ``[B, F, T', C]``.

    The spectrum is of the audio in its own precision. The convolutions compute in that of their
    weights.
    """

    exact = True

    def __init__(self, resolution: tuple[int, int, int], *, rngs: nnx.Rngs):
        self.resolution = resolution
        self.convs: nnx.List[SpectralConv] = nnx.List()
        c_in = 1
        for time_stride in _TIME_STRIDES:
            conv = SpectralConv(c_in, _WIDTH, _KERNEL, rngs=rngs, time_stride=time_stride)
            self.convs.append(conv)
            c_in = _WIDTH
        self.convs.append(SpectralConv(_WIDTH, _WIDTH, (3, 3), rngs=rngs))
        self.conv_post = SpectralConv(_WIDTH, 1, (3, 3), rngs=rngs)

    def _spectrum(self, audio: jax.Array) -> jax.Array:
        """``[B, T]`` to ``[B, F, T', 1]``, in the type of the weights."""
        dtype = self.conv_post.effective().dtype
        return magnitudes(audio, *self.resolution)[..., None].astype(dtype)

    def _judge(self, x: jax.Array) -> Features:
        features = []
        for conv in self.convs:
            x = leaky_relu(conv(x))
            features.append(x)
        return [*features, self.conv_post(x)]

    def __call__(self, audio: jax.Array) -> Features:
        """Feature maps ``[B, F, T', C]`` of ``audio [B, T]``."""
        return self._judge(self._spectrum(audio))

    def forward(self, real: jax.Array, generated: jax.Array) -> tuple[Features, Any]:
        """See `Discriminator`; what is saved is of the generated audio's spectrum alone."""
        spectrum, saved = jax.vjp(self._spectrum, generated)
        return self._judge(jnp.concatenate([self._spectrum(real), spectrum])), saved

    def pull_back(
        self, saved: Any, features: Features, cotangents: Features, generated: jax.Array
    ) -> jax.Array:
        """See `Discriminator`; between feature maps it is linear, as `SubDiscriminator` is."""
        linear = functools.partial(self._linearised, features)
        spectrum = jax.eval_shape(self._spectrum, generated)
        (to_spectrum,) = jax.linear_transpose(linear, spectrum)(cotangents)
        (to_audio,) = saved(to_spectrum)
        return to_audio

    def _linearised(self, features: Features, x: jax.Array) -> Features:
        """Change of the feature maps for a change ``[B, F, T', 1]`` of their spectrum."""
        changes = []
        for conv, feature in zip(self.convs, features):
            x = conv.linear(x)
            x = jnp.where(feature > 0, x, x * LEAKY_SLOPE)
            changes.append(x)
        return [*changes, self.conv_post.linear(x)]


class MultiResolutionDiscriminator(nnx.Module):
    """One for each of `MRD_RESOLUTIONS`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.discriminators: nnx.List[ResolutionDiscriminator]
        self.discriminators = nnx.List(
            [ResolutionDiscriminator(resolution, rngs=rngs) for resolution in MRD_RESOLUTIONS]
        )


class AllDiscriminators(MultiPeriodDiscriminator):
    """Those of waveforms, then those of spectra: one network, trained by one optimizer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.model_mrd = MultiResolutionDiscriminator(rngs=rngs)  # Piper's name

    def every(self) -> list[Discriminator]:
        """See `MultiPeriodDiscriminator`."""
        return [*self.discriminators, *self.model_mrd.discriminators]
