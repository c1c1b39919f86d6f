"""The objective and the discriminators behind one interface, whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from tests.parity.cases import QUICK_COMPILATION, smallest
from vits_jax.config import ModelConfig
from vits_jax.model.discriminator import Discriminator, Features, MultiPeriodDiscriminator
from vits_jax.model.layers import leaky_relu
from vits_jax.model.parameters import bind, flatten
from vits_jax.training.losses import Rows, discriminator_loss, feature_loss, generator_loss

BATCH, SAMPLES = 3, 512
WINDOW, HOP = 64, 16


class Spectral(Discriminator):
    """An STFT magnitude and one convolution: no slopes to recover from the sign of anything."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.weight = nnx.Param(0.1 * rngs.normal((3, WINDOW // 2 + 1, 4)))

    def __call__(self, audio: jax.Array) -> Features:
        starts = np.arange(0, audio.shape[1] - WINDOW + 1, HOP)
        frames = audio[:, starts[:, None] + np.arange(WINDOW)]  # [B, F, WINDOW]
        magnitude = jnp.abs(jnp.fft.rfft(frames * jnp.hanning(WINDOW).astype(audio.dtype)) + 1e-3)
        x = lax.conv_general_dilated(
            magnitude, self.weight[...], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return [leaky_relu(x), jnp.mean(x, axis=2)]


class WithSpectral(MultiPeriodDiscriminator):
    """Piper's six, and a seventh."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.discriminators.append(Spectral(rngs=rngs))


class _Draws:
    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def uniform(self, shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(self.random.uniform(size=shape), jnp.float32)

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(self.random.normal(size=shape), jnp.float32)


ROWS = Rows(jnp.ones(BATCH), jnp.float32(BATCH), jnp.float32(1), jnp.float32(1))


def halves(features: list[Features]) -> tuple[list[Features], list[Features]]:
    return [[f[:BATCH] for f in maps] for maps in features], [
        [f[BATCH:] for f in maps] for maps in features
    ]


def through_the_interface(judges: Any, real: jax.Array, generated: jax.Array) -> Any:
    """Gradients to parameters and to the generated audio, as the training step takes them."""

    def own(parameters: Any) -> Any:
        features, saved = bind(judges, parameters).forward(real, generated)
        a, b = halves(features)
        return discriminator_loss(a, b, ROWS), (a, b, saved)

    grads, (a, b, saved) = jax.grad(own, has_aux=True)(flatten(judges))
    to_features = jax.grad(lambda b: generator_loss(b, ROWS) + feature_loss(a, b, ROWS))(b)
    return grads, judges.pull_back(saved, b, to_features, generated)


def by_automatic_differentiation(judges: Any, real: jax.Array, generated: jax.Array) -> Any:
    """Two passes, nothing saved between them."""

    def features(parameters: Any, generated: jax.Array) -> Any:
        return halves(bind(judges, parameters)(jnp.concatenate([real, generated])))

    def own(parameters: Any) -> jax.Array:
        return discriminator_loss(*features(parameters, generated), ROWS)

    def adversarial(generated: jax.Array) -> jax.Array:
        a, b = features(flatten(judges), generated)
        return generator_loss(b, ROWS) + feature_loss(lax.stop_gradient(a), b, ROWS)

    return jax.grad(own)(flatten(judges)), jax.grad(adversarial)(generated)


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(function).lower(*arguments).compile(QUICK_COMPILATION)(*arguments)


def test_both_gradients_of_one_pass_are_those_of_two():
    judges = WithSpectral(smallest().model, rngs=_Draws())  # type: ignore[arg-type]
    random = np.random.default_rng(1)
    real, generated = jnp.asarray(random.normal(size=(2, BATCH, SAMPLES)), jnp.float32)
    ours = compiled(lambda *a: through_the_interface(judges, *a), real, generated)
    expected = compiled(lambda *a: by_automatic_differentiation(judges, *a), real, generated)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        scale = np.abs(other).max()
        assert scale > 0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale)
    assert f"discriminators.{len(judges.discriminators) - 1}.weight" in ours[0]
