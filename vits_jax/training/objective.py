"""What is minimised: the losses of both networks on a batch, their gradients, their values.

Piper's order: the generator runs once; both losses are taken at the same weights, the
discriminators' on the detached audio. The discriminators run once, on recorded and
generated audio as one batch, and both gradients pull back through that pass.

All of it sees one device's rows, and gives this device's share of the batch's means.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vits_jax.config import Config, OptimizerConfig
from vits_jax.model.audio import dequantise, mel_from_spectrogram, mel_spectrogram, spectrogram
from vits_jax.model.discriminator import Features
from vits_jax.model.networks import DISCRIMINATOR, GENERATOR, Networks
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.precision import Precision
from vits_jax.model.randomness import Randomness
from vits_jax.model.synthesizer import cut
from vits_jax.model.weight_norm import fold
from vits_jax.training import losses
from vits_jax.training.losses import Rows

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Objective(NamedTuple):
    """How losses are taken.

    Attributes:
        config: sizes and weights of the losses.
        networks: the modules, to bind folded parameters to (`folded_networks`).
        precision: the types to compute with.
    """

    config: Config
    networks: Networks
    precision: Precision

    def gradients(
        self, params: dict[str, Parameters], batch: Batch, rows: Rows, random: Randomness
    ) -> tuple[dict[str, Parameters], Metrics]:
        """Gradients of both networks, ``{network: {name: array}}``, and the losses.

        Args:
            params: ``{network: {name: array}}``.
            batch: this device's rows (`data.batches.Batch`).
            rows: their weights, and what the whole batch holds.
            random: noise, segments and dropout.
        """
        weights, compute = self.config.optimizer, self.precision.compute

        def generator(parameters: Parameters) -> tuple[tuple[jax.Array, jax.Array], _Generated]:
            g = self._generate(parameters, batch, rows, random)
            return (g.loss(weights), g.audio), g

        (own, audio), pull_back_generator, g = jax.vjp(generator, params[GENERATOR], has_aux=True)

        def discriminator(parameters: Parameters) -> tuple[jax.Array, tuple[list[Features], ...]]:
            judges = bind(self.networks.discriminator, fold(parameters, compute))
            features, saved = judges.forward(
                g.real.astype(compute), lax.stop_gradient(audio).astype(compute)
            )
            real, generated = _halves(features)
            with jax.named_scope("discriminator_loss"):
                disc = losses.discriminator_loss(real, generated, rows)
            return disc, (real, generated, saved)

        (disc, (real, generated, saved)), grads_d = jax.value_and_grad(discriminator, has_aux=True)(
            params[DISCRIMINATOR]
        )
        (adversarial, terms), to_features = jax.value_and_grad(_adversarial, has_aux=True)(
            generated, real, rows, weights
        )
        judges = bind(self.networks.discriminator, fold(params[DISCRIMINATOR], compute))
        to_audio = judges.pull_back(saved, generated, to_features, audio.astype(compute))
        (grads_g,) = pull_back_generator((jnp.ones_like(own), to_audio.astype(audio.dtype)))
        grads = {GENERATOR: grads_g, DISCRIMINATOR: grads_d}
        return grads, _metrics(own + adversarial, g, terms, disc)

    def losses(
        self, params: dict[str, Parameters], batch: Batch, rows: Rows, random: Randomness
    ) -> Metrics:
        """The same losses without gradients; arguments as of `gradients`."""
        weights, compute = self.config.optimizer, self.precision.compute
        g = self._generate(params[GENERATOR], batch, rows, random)
        judges = bind(self.networks.discriminator, fold(params[DISCRIMINATOR], compute))
        both = jnp.concatenate([g.real, g.audio]).astype(compute)
        real, generated = _halves(judges(both))
        disc = losses.discriminator_loss(real, generated, rows)
        adversarial, terms = _adversarial(generated, real, rows, weights)
        return _metrics(g.loss(weights) + adversarial, g, terms, disc)

    def _generate(
        self, params: Parameters, batch: Batch, rows: Rows, random: Randomness
    ) -> _Generated:
        """Run the generator and take the losses that need no discriminator."""
        audio_config = self.config.audio
        with jax.named_scope("spectrogram"):
            audio = dequantise(batch["audio"], self.precision.params)
            spec = spectrogram(audio, batch["audio_lengths"], audio_config)
        folded = fold(params, self.precision.compute, rows=batch["weight"].shape[0])
        output = bind(self.networks.generator, folded)(
            batch["phoneme_ids"],
            batch["phoneme_lengths"],
            spec,
            batch["audio_lengths"] // audio_config.hop_length,
            batch["speaker_ids"],
            random,
            self.precision.compute,
        )
        with jax.named_scope("generator_losses"):
            # The target mel is cut from the whole utterance's, the generated one has the
            # segment only.
            start, size = output.segment_start, self.config.segment_frames
            target_mel = mel_from_spectrogram(cut(spec, start, size), audio_config)
            mel = mel_spectrogram(output.audio, audio_config)
            real = cut(audio, start * audio_config.hop_length, self.config.model.segment_size)
            return _Generated(
                output.audio,
                real,
                losses.mel_loss(target_mel, mel, rows),
                losses.kl_loss(output, rows),
                losses.duration_loss(output, rows),
            )


class _Generated(NamedTuple):
    """One pass of the generator."""

    audio: jax.Array  # [B, S]
    real: jax.Array  # [B, S], the segment of the recording
    mel: jax.Array
    kl: jax.Array
    dur: jax.Array

    def loss(self, weights: OptimizerConfig) -> jax.Array:
        """The part of the generator's loss that needs no discriminator, ``[]``."""
        return weights.c_mel * self.mel + weights.c_kl * self.kl + weights.c_dur * self.dur


class _Adversarial(NamedTuple):
    """What the discriminators think of the generator; ``fm`` with its weight, as Piper logs it."""

    gen: jax.Array
    fm: jax.Array


def _adversarial(
    generated: list[Features], real: list[Features], rows: Rows, weights: OptimizerConfig
) -> tuple[jax.Array, _Adversarial]:
    with jax.named_scope("adversarial_losses"):
        gen = losses.generator_loss(generated, rows)
        fm = weights.c_fm * losses.feature_loss(real, generated, rows)
        return weights.c_gen * gen + fm, _Adversarial(gen, fm)


def _halves(features: list[Features]) -> tuple[list[Features], list[Features]]:
    """Feature maps of real and generated audio, from those of both as one batch."""
    real = [[f[: f.shape[0] // 2] for f in maps] for maps in features]
    return real, [[f[f.shape[0] // 2 :] for f in maps] for maps in features]


def _metrics(
    loss_g: jax.Array, g: _Generated, adversarial: _Adversarial, disc: jax.Array
) -> Metrics:
    return {
        "loss_g": loss_g,
        "loss_d": disc,
        "mel": g.mel,
        "kl": g.kl,
        "dur": g.dur,
        "gen": adversarial.gen,
        "fm": adversarial.fm,
        "disc": disc,
    }
