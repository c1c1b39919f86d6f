"""What is minimised: the losses of both networks on a batch, their gradients, their values.

Piper's order: the generator runs once; both losses are taken at the same weights, the
discriminators' on the detached audio. The discriminators run once, on recorded and
generated audio as one batch, and both gradients pull back through that pass.

It is in four stages. Text and recordings are as long as the batch's shape says: `encode` takes
the loss of that part, and `finish` its gradients. What lies between, `generate`, sees a
segment of each recording, as long as any other: decoder and discriminators, most of the step.
The duration predictor learns by itself, `predict`, from what `encode` found.

All of it sees one device's rows, and gives this device's share of the batch's means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vits_jax.config import Config
from vits_jax.model.audio import dequantise, mel_from_spectrogram, mel_spectrogram, spectrogram
from vits_jax.model.discriminator import Features
from vits_jax.model.networks import GENERATOR, Networks, apart, judges_of
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.parts import frozen
from vits_jax.model.precision import Precision
from vits_jax.model.randomness import Randomness
from vits_jax.model.synthesizer import Posterior, cut
from vits_jax.model.weight_norm import fold, folded_name
from vits_jax.training import losses
from vits_jax.training.adversarial import Adversarial, halves
from vits_jax.training.losses import Rows

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Factors = dict[str, jax.Array]  # [] each, of weights of losses; of others it is 1

# What names of the generator's parameters begin with.
_DECODER, _PREDICTOR, _POSTERIOR, _SPEAKERS = "dec.", "dp.", "enc_q.", "emb_g."
SHARED = (_SPEAKERS,)
"""Parameters that several stages need; gradients to them come from several too."""


class Segment(NamedTuple):
    """What is generated of each row, and what it is held against."""

    z: jax.Array  # [B, segment_frames, C]
    real: jax.Array  # [B, segment_size], of the recording
    mel: jax.Array  # [B, segment_frames, mels], its log mel
    speaker_ids: jax.Array  # [B]


class Aligned(NamedTuple):
    """What the duration predictor learns from."""

    x: jax.Array  # [B, P, H], hidden text
    durations: jax.Array  # [B, P], frames
    phoneme_lengths: jax.Array  # [B]
    speaker_ids: jax.Array  # [B]


class Encoded(NamedTuple):
    """What `encode` leaves for `finish`.

    Attributes:
        pull_back: gradients to what the posterior encoder gave, to those to its parameters.
        to_z, to_logs_q: those gradients ``[B, F, C]``, but for the segment's.
        grads: to all other parameters, with the weights computed (`weight_norm.fold`).
        start: of the segments ``[B]``, frames.
    """

    pull_back: Callable[..., tuple[Parameters]]
    to_z: jax.Array
    to_logs_q: jax.Array
    grads: Parameters
    start: jax.Array


def encoders(params: Parameters) -> Parameters:
    """Of the generator's parameters, ``{name: …}``, those that `Objective.encode` needs."""
    return {n: p for n, p in params.items() if not n.startswith((_DECODER, _PREDICTOR))}


def predictor(params: Parameters) -> Parameters:
    """Of the generator's parameters, ``{name: …}``, those that `Objective.predict` needs."""
    return {n: p for n, p in params.items() if n.startswith((_PREDICTOR, _SPEAKERS))}


def decoder(params: Parameters) -> Parameters:
    """Of the generator's parameters, ``{name: …}``, those that `Objective.generate` needs."""
    return {n: p for n, p in params.items() if n.startswith((_DECODER, _SPEAKERS))}


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
        own = encoders(params[GENERATOR])
        segment, aligned, encoded, metrics = self.encode(own, batch, rows, random)
        of_predictor, dur = self.predict(predictor(params[GENERATOR]), aligned, rows, random)
        to_z, grads, more = self.generate(
            decoder(params[GENERATOR]), judges_of(params), segment, rows
        )
        of_encoders = self.finish(own, encoded, to_z)
        for some in (of_encoders, of_predictor):
            grads[GENERATOR] = added(some, grads[GENERATOR])
        return grads, added(added(metrics, dur), more)

    def encode(
        self,
        params: Parameters,
        batch: Batch,
        rows: Rows,
        random: Randomness,
        factors: Factors | None = None,
    ) -> tuple[Segment, Aligned, Encoded, Metrics]:
        """Text and recordings of the batch's shape, their loss; arguments as of `gradients`.

        Args:
            params: `encoders` of the generator's.
            factors: "kl", of the weight of the divergence.
        """
        c_kl = _weight(self.config.optimizer.c_kl, factors, "kl")
        folded = fold(params, self.precision.compute, rows=batch["weight"].shape[0])
        of_posterior = (_POSTERIOR, _SPEAKERS)
        moving = self._moving(params)
        fixed = {name: p for name, p in folded.items() if name not in moving}
        own = {name: folded[name] for name in moving if name.startswith(of_posterior)}
        rest = {name: folded[name] for name in moving if not name.startswith(_POSTERIOR)}
        audio, spec = self._recordings(batch)

        def posterior(params: Parameters) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            z, logs_q, y_mask = self._posterior(fixed | params, batch, spec, random)
            return (z, logs_q), y_mask

        def divergence(
            params: Parameters, z: jax.Array, logs_q: jax.Array
        ) -> tuple[jax.Array, tuple[jax.Array, Aligned]]:
            both = fixed | params
            kl, aligned = self._align(both, batch, Posterior(z, logs_q, y_mask), rows, random)
            return c_kl * kl, (kl, aligned)

        (z, logs_q), pull_back, y_mask = jax.vjp(posterior, own, has_aux=True)
        taken = jax.value_and_grad(divergence, (0, 1, 2), has_aux=True)(rest, z, logs_q)
        (loss, (kl, aligned)), (grads, to_z, to_logs_q) = taken
        segment, start = self._segment(batch, audio, spec, z, random)
        encoded = Encoded(pull_back, to_z, to_logs_q, grads, start)
        return segment, aligned, encoded, {"loss_g": loss, "kl": kl}

    def predict(
        self, params: Parameters, aligned: Aligned, rows: Rows, random: Randomness
    ) -> tuple[Parameters, Metrics]:
        """The duration predictor: gradients to its parameters, and its loss.

        Args:
            params: `predictor` of the generator's.
            aligned: as `encode` gives it.
            rows, random: as of `gradients`.
        """
        own = {n: p for n, p in self._learning(params).items() if n.startswith(_PREDICTOR)}

        def loss(own: Parameters) -> tuple[jax.Array, Metrics]:
            metrics = self.predict_losses(params | own, aligned, rows, random)
            return metrics["loss_g"], metrics

        return jax.grad(loss, has_aux=True)(own)

    def generate(
        self,
        params_g: Parameters,
        params_d: Parameters,
        segment: Segment,
        rows: Rows,
        factors: Factors | None = None,
    ) -> tuple[jax.Array, dict[str, Parameters], Metrics]:
        """Segments of audio, and both networks' losses of them.

        Args:
            params_g: `decoder` of the generator's.
            params_d: the discriminators' (`judges_of`).
            segment: as `encode` gives it.
            rows: as of `gradients`.
            factors: "adversarial", of what the discriminators say to the generator.

        Returns:
            The gradient to `Segment.z`, those to the parameters by network, the losses.
        """
        weights, compute = self.config.optimizer, self.precision.compute

        def generator(
            params: Parameters, z: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            audio, mel = self._audio(params_g | params, segment._replace(z=z), rows)
            return (weights.c_mel * mel, audio), mel

        (own, audio), pull_back, mel = jax.vjp(
            generator, self._learning(params_g), segment.z, has_aux=True
        )

        def discriminator(parameters: Parameters) -> tuple[jax.Array, tuple[Any, ...]]:
            judges = bind(self.networks.discriminator, fold(params_d | parameters, compute))
            heard = segment.real, lax.stop_gradient(audio)
            features, saved = judges.forward(*heard, compute)
            real, generated = halves(features)
            loss, disc = self._adversarial.of_discriminators(real, generated, rows)
            return loss, (real, generated, saved, disc)

        (loss_d, (real, generated, saved, disc)), grads_d = jax.value_and_grad(
            discriminator, has_aux=True
        )(self._learning(params_d, judges=True))

        def adversarial(generated: list[Features]) -> tuple[jax.Array, Metrics]:
            loss, terms = self._adversarial.of_generator(generated, real, rows)
            return _weight(loss, factors, "adversarial"), terms

        (loss, terms), to_features = jax.value_and_grad(adversarial, has_aux=True)(generated)
        judges = bind(self.networks.discriminator, fold(params_d, compute))
        to_audio = judges.pull_back(saved, generated, to_features, audio, compute)
        grads_g, to_z = pull_back((jnp.ones_like(own), to_audio))
        totals = {"loss_g": own + loss, "loss_d": loss_d, "mel": mel}
        return to_z, {GENERATOR: grads_g, **apart(grads_d)}, totals | terms | disc

    def finish(self, params: Parameters, encoded: Encoded, to_segment: jax.Array) -> Parameters:
        """The gradients of `encode`'s part.

        Args:
            params: `encoders` of the generator's.
            encoded: what `encode` left.
            to_segment: the gradient to its segment ``[B, segment_frames, C]``.
        """
        rows, to_z = encoded.start.shape[0], encoded.to_z
        with jax.named_scope("decoder"):
            whole = jax.vmap(lax.dynamic_update_slice_in_dim, (0, 0, 0, None))
            to_z = to_z + whole(jnp.zeros_like(to_z), to_segment, encoded.start, 0)
        (own,) = encoded.pull_back((to_z, encoded.to_logs_q))

        moving = self._moving(params)

        def folded(learning: Parameters) -> Parameters:
            whole = fold(params | learning, self.precision.compute, rows=rows)
            return {name: whole[name] for name in moving}

        _, unfold = jax.vjp(folded, self._learning(params))
        (grads,) = unfold(added(own, encoded.grads))
        return grads

    def encode_losses(
        self, params: Parameters, batch: Batch, rows: Rows, random: Randomness
    ) -> tuple[Segment, Aligned, Metrics]:
        """As `encode`, without gradients."""
        weights = self.config.optimizer
        folded = fold(params, self.precision.compute, rows=batch["weight"].shape[0])
        audio, spec = self._recordings(batch)
        posterior = self._posterior(folded, batch, spec, random)
        kl, aligned = self._align(folded, batch, posterior, rows, random)
        segment, _ = self._segment(batch, audio, spec, posterior.z, random)
        return segment, aligned, {"loss_g": weights.c_kl * kl, "kl": kl}

    def predict_losses(
        self, params: Parameters, aligned: Aligned, rows: Rows, random: Randomness
    ) -> Metrics:
        """As `predict`, without gradients."""
        folded = fold(params, self.precision.compute, rows=aligned.x.shape[0])
        network = bind(self.networks.generator, folded, partly=True)
        x, durations, lengths, speakers = aligned
        nll = network.duration_nll(x, lengths, speakers, durations, random)
        dur = losses.duration_loss(nll, rows)
        return {"loss_g": self.config.optimizer.c_dur * dur, "dur": dur}

    def generate_losses(
        self, params_g: Parameters, params_d: Parameters, segment: Segment, rows: Rows
    ) -> Metrics:
        """As `generate`, without gradients."""
        weights, compute = self.config.optimizer, self.precision.compute
        audio, mel = self._audio(params_g, segment, rows)
        judges = bind(self.networks.discriminator, fold(params_d, compute))
        real, generated = halves(judges(jnp.concatenate([segment.real, audio]), compute))
        loss_d, disc = self._adversarial.of_discriminators(real, generated, rows)
        adversarial, terms = self._adversarial.of_generator(generated, real, rows)
        totals = {"loss_g": weights.c_mel * mel + adversarial, "loss_d": loss_d, "mel": mel}
        return totals | terms | disc

    def _learning(self, params: Parameters, judges: bool = False) -> Parameters:
        """Those that are not frozen, of the generator or of all `judges`."""
        networks = frozen(self.config)
        held = judges_of({n: dict.fromkeys(own) for n, own in networks.items()})
        none = held if judges else networks[GENERATOR]
        return {name: p for name, p in params.items() if name not in none}

    def _moving(self, params: Parameters) -> list[str]:
        """Of the generator's `params`, folded (`weight_norm.fold`), what is not frozen."""
        return list(dict.fromkeys(folded_name(name) for name in self._learning(params)))

    @property
    def _adversarial(self) -> Adversarial:
        number = len(self.networks.discriminator.discriminators)
        return Adversarial(self.config.optimizer, number)

    def _recordings(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Audio ``[B, T]`` and its linear spectrogram ``[B, F, bins]``."""
        with jax.named_scope("spectrogram"):
            audio = dequantise(batch["audio"], self.precision.params)
            return audio, spectrogram(audio, batch["audio_lengths"], self.config.audio)

    def _posterior(
        self, params: Parameters, batch: Batch, spec: jax.Array, random: Randomness
    ) -> Posterior:
        network = bind(self.networks.generator, params, partly=True)
        frames, ids = self._frames(batch), batch["speaker_ids"]
        return network.posterior(spec, frames, ids, random, self.precision.compute)

    def _align(
        self,
        params: Parameters,
        batch: Batch,
        posterior: Posterior,
        rows: Rows,
        random: Randomness,
    ) -> tuple[jax.Array, Aligned]:
        """Divergence ``[]``, and durations."""
        lengths, speakers = batch["phoneme_lengths"], batch["speaker_ids"]
        alignment = bind(self.networks.generator, params, partly=True).align(
            batch["phoneme_ids"],
            lengths,
            speakers,
            self._frames(batch),
            posterior,
            random,
            self.precision.compute,
        )
        with jax.named_scope("generator_losses"):
            kl = losses.kl_loss(alignment, posterior, rows)
        x = lax.stop_gradient(alignment.x)
        return kl, Aligned(x, alignment.durations, lengths, speakers)

    def _segment(
        self, batch: Batch, audio: jax.Array, spec: jax.Array, z: jax.Array, random: Randomness
    ) -> tuple[Segment, jax.Array]:
        """What is generated, and its first frames ``[B]``."""
        config, network, size = self.config, self.networks.generator, self.config.segment_frames
        start = network.segment_start(self._frames(batch), random, spec.dtype)
        with jax.named_scope("generator_losses"):
            # The target mel is cut from the whole utterance's, the generated one has the
            # segment only.
            mel = mel_from_spectrogram(cut(spec, start, size), config.audio)
            real = cut(audio, start * config.audio.hop_length, config.model.segment_size)
        return Segment(cut(z, start, size), real, mel, batch["speaker_ids"]), start

    def _audio(
        self, params: Parameters, segment: Segment, rows: Rows
    ) -> tuple[jax.Array, jax.Array]:
        """What is generated, ``[B, segment_size]``, and its mel loss ``[]``."""
        compute, number = self.precision.compute, segment.speaker_ids.shape[0]
        folded = fold(params, compute, rows=number)
        network = bind(self.networks.generator, folded, partly=True)
        audio = network.generate(segment.z, segment.speaker_ids, compute)
        with jax.named_scope("generator_losses"):
            mel = mel_spectrogram(audio, self.config.audio)
            return audio, losses.mel_loss(segment.mel, mel, rows)

    def _frames(self, batch: Batch) -> jax.Array:
        return batch["audio_lengths"] // self.config.audio.hop_length


def _weight(weight: Any, factors: Factors | None, name: str) -> Any:
    return weight * factors[name] if factors and name in factors else weight


def added(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Both, by name; what has one name is added."""
    return a | {name: a[name] + x if name in a else x for name, x in b.items()}
