"""Scale and period discriminators of HiFi-GAN (Kong et al. 2020, 2.3).

A training step needs two gradients from them: of their own loss with respect to their
parameters, over real and generated audio, and of the generator's loss with respect to
the generated audio alone. Both come from one forward pass, of whatever a discriminator is
made (`Discriminator`). Of these here the second one is cheap: between feature maps they are
linear but for leaky ReLUs, whose slopes the feature maps show by their sign, so that only
the half of the batch that was generated is pulled back.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vits_jax.config import ModelConfig
from vits_jax.model.arithmetic import total
from vits_jax.model.convolution import conv1d
from vits_jax.model.layers import LEAKY_SLOPE, WeightNorm, biased, leaky_relu
from vits_jax.model.packed import pack, packing

PERIODS = (2, 3, 5, 7, 11)
PIPER_WIDTH = 1024
Features = list[jax.Array]  # of one sub-discriminator, layer by layer, the decision last


class Discriminator(nnx.Module):
    """One judge of audio: feature maps of it, and how they pull back to it.

    To add one, write ``__call__``, and put it into `MultiPeriodDiscriminator.every`.
    """

    exact = False
    """Whether it hears audio as precise as it is, not in the type that the networks compute in."""

    def __call__(self, audio: jax.Array) -> Features:
        """Feature maps ``[B, ...]`` of ``audio [B, T]``, the decision last."""
        raise NotImplementedError

    def forward(self, real: jax.Array, generated: jax.Array) -> tuple[Features, Any]:
        """Feature maps of real and generated audio, each ``[B, T]``, as one batch ``[2B, ...]``.

        Returns:
            The feature maps, and what `pull_back` needs of this pass: a tree of arrays.
        """

        def both(generated: jax.Array) -> Features:
            return self(jnp.concatenate([real, generated]))

        return jax.vjp(both, generated)

    def pull_back(
        self, saved: Any, features: Features, cotangents: Features, generated: jax.Array
    ) -> jax.Array:
        """The gradient to the generated audio, ``[B, T]``.

        Args:
            saved: what `forward` returned.
            features: the feature maps of the generated audio, ``[B, ...]``.
            cotangents: the gradients to them.
            generated: the audio.
        """
        (to_audio,) = saved([jnp.concatenate([jnp.zeros_like(c), c]) for c in cotangents])
        return to_audio


class DiscriminatorConv(WeightNorm):
    """A weight-normalised convolution over time; ``[out, in, k, 1]`` where Piper's is 2-D."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        k: int,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        groups: int = 1,
        two_d: bool = False,
    ):
        self.stride, self.groups, self.padding = stride, groups, (k - 1) // 2
        shape = (c_out, c_in // groups, k, 1) if two_d else (c_out, c_in // groups, k)
        self.init_weight(rngs, shape, c_out, (c_in // groups * k) ** -0.5)

    def linear(self, x: jax.Array) -> jax.Array:
        """The convolution without its bias, ``[N, T, in]`` to ``[N, T', out]``."""
        weight = self.effective()
        weight = weight.reshape(weight.shape[:3])
        return conv1d(x, weight, stride=self.stride, padding=self.padding, groups=self.groups)

    def __call__(self, x: jax.Array) -> jax.Array:
        return biased(self.linear(x), self.bias[...])


class SubDiscriminator(Discriminator):
    """Convolutions with leaky ReLUs, over a signal folded by a period (1: not folded)."""

    period: int
    convs: nnx.List
    conv_post: DiscriminatorConv

    def fold(self, audio: jax.Array) -> jax.Array:
        """``[B, T]`` to ``[B * period, T', 1]``, its end reflected to a whole period.

        Packed (`packed`), if the first layer's output is to be.
        """
        audio = jnp.pad(audio, ((0, 0), (0, -audio.shape[1] % self.period)), mode="reflect")
        folded = audio.reshape(audio.shape[0], -1, self.period).swapaxes(1, 2)
        folded = folded.reshape(audio.shape[0] * self.period, -1, 1)
        first = self.convs[0]
        length = folded.shape[1]
        by = first.stride * packing(first.bias.shape[0], length // first.stride)
        return pack(folded, by) if by > first.stride and length % by == 0 else folded

    def _per_row(self, features: Features) -> Features:
        return [f.reshape(-1, self.period, *f.shape[1:]) for f in features]

    def __call__(self, audio: jax.Array) -> Features:
        """Feature maps ``[B, period, T', C]`` of ``audio [B, T]``."""
        x, features = self.fold(audio), []
        for conv in self.convs:
            x = leaky_relu(conv(x))
            features.append(x)
        return self._per_row([*features, self.conv_post(x)])

    def forward(self, real: jax.Array, generated: jax.Array) -> tuple[Features, Any]:
        """See `Discriminator`, its shapes too; the feature maps are all that is needed."""
        return self(jnp.concatenate([real, generated])), None

    def pull_back(
        self, saved: Any, features: Features, cotangents: Features, generated: jax.Array
    ) -> jax.Array:
        """See `Discriminator`: the transpose of the linear function between feature maps."""
        linear = functools.partial(self._linearised, features)
        (to_audio,) = jax.linear_transpose(linear, generated)(cotangents)
        return to_audio

    def _linearised(self, features: Features, tangent: jax.Array) -> Features:
        """Change of the feature maps for a change ``tangent [B, T]`` of their audio."""
        x, changes = self.fold(tangent), []
        for conv, feature in zip(self.convs, features):
            feature = feature.reshape(-1, *feature.shape[2:])
            x = conv.linear(x)
            x = jnp.where(feature > 0, x, x * LEAKY_SLOPE)
            changes.append(x)
        return self._per_row([*changes, self.conv_post.linear(x)])


class DiscriminatorS(SubDiscriminator):
    """Looks at the waveform as it is, with grouped strided convolutions."""

    def __init__(self, scale: float, *, rngs: nnx.Rngs):
        self.period = 1
        self.convs = nnx.List()
        c_in = 1
        layers = (
            (16, 15, 1),
            (64, 41, 4),
            (256, 41, 4),
            (1024, 41, 4),
            (1024, 41, 4),
            (1024, 5, 1),
        )
        for width, k, stride in layers:
            c_out = max(1, int(width * scale))
            groups = max(1, c_in // 4) if k == 41 else 1  # 4 channels per group
            self.convs.append(
                DiscriminatorConv(c_in, c_out, k, stride=stride, groups=groups, rngs=rngs)
            )
            c_in = c_out
        self.conv_post = DiscriminatorConv(c_in, 1, 3, rngs=rngs)


class DiscriminatorP(SubDiscriminator):
    """Looks at every ``period``-th sample."""

    def __init__(self, period: int, scale: float, *, rngs: nnx.Rngs):
        self.period = period
        self.convs = nnx.List()
        c_in = 1
        for width, stride in ((32, 3), (128, 3), (512, 3), (1024, 3), (1024, 1)):
            c_out = max(1, int(width * scale))
            self.convs.append(
                DiscriminatorConv(c_in, c_out, 5, stride=stride, two_d=True, rngs=rngs)
            )
            c_in = c_out
        self.conv_post = DiscriminatorConv(c_in, 1, 3, two_d=True, rngs=rngs)


class MultiPeriodDiscriminator(nnx.Module):
    """One scale and five period discriminators."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        scale = config.discriminator_width / PIPER_WIDTH
        self.discriminators: nnx.List[Discriminator]
        self.discriminators = nnx.List([DiscriminatorS(scale, rngs=rngs)])
        for period in PERIODS:
            self.discriminators.append(DiscriminatorP(period, scale, rngs=rngs))

    def every(self) -> list[Discriminator]:
        """All that judge: those of ``discriminators`` first."""
        return list(self.discriminators)

    def __call__(self, audio: jax.Array, dtype: DTypeLike | None = None) -> list[Features]:
        """Feature maps of every discriminator for ``audio [B, T]``.

        Args:
            dtype: to compute in (default: the audio's).
        """
        rounded, features = audio.astype(dtype or audio.dtype), []
        for i, discriminator in enumerate(self.every()):
            with jax.named_scope(f"discriminator_{i}"):
                features.append(discriminator(audio if discriminator.exact else rounded))
        return features

    def forward(
        self, real: jax.Array, generated: jax.Array, dtype: DTypeLike | None = None
    ) -> tuple[list[Features], list[Any]]:
        """See `Discriminator`, of each, and `__call__`."""
        dtype = dtype or generated.dtype
        heard = {True: (real, generated), False: (real.astype(dtype), generated.astype(dtype))}
        passes = []
        for i, discriminator in enumerate(self.every()):
            with jax.named_scope(f"discriminator_{i}"):
                passes.append(discriminator.forward(*heard[discriminator.exact]))
        return [features for features, _ in passes], [saved for _, saved in passes]

    def pull_back(
        self,
        saved: list[Any],
        features: list[Features],
        cotangents: list[Features],
        generated: jax.Array,
        dtype: DTypeLike | None = None,
    ) -> jax.Array:
        """See `Discriminator`: the sum over all of them, ``[B, T]``, as precise as `generated`."""
        heard = {True: generated, False: generated.astype(dtype or generated.dtype)}
        parts: dict[bool, list[jax.Array]] = {False: [], True: []}
        for i, discriminator in enumerate(self.every()):
            of, given = heard[discriminator.exact], (saved[i], features[i], cotangents[i])
            with jax.named_scope(f"discriminator_{i}"):
                parts[discriminator.exact].append(discriminator.pull_back(*given, of))
        sums = [total(reversed(own)) for own in parts.values() if own]
        return total(own.astype(generated.dtype) for own in sums)
