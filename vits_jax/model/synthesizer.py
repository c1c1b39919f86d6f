"""The whole generator of VITS: training pass, synthesis and voice conversion."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from vits_jax.config import AudioConfig, ModelConfig
from vits_jax.model.alignment import durations, log_likelihood, spread
from vits_jax.model.arithmetic import at_least_float32
from vits_jax.model.duration import DurationPredictor, StochasticDurationPredictor
from vits_jax.model.flow import ResidualCouplingBlock
from vits_jax.model.layers import Embedding, length_mask
from vits_jax.model.posterior import PosteriorEncoder
from vits_jax.model.randomness import Randomness
from vits_jax.model.text_encoder import TextEncoder
from vits_jax.model.vocoder import Generator


class Posterior(NamedTuple):
    """What the posterior encoder makes of recordings. F frames, C latent channels."""

    z: jax.Array  # [B, F, C], a sample
    logs_q: jax.Array  # [B, F, C], its log-scale
    y_mask: jax.Array  # [B, F, 1]


class Alignment(NamedTuple):
    """A text beside the recording of it. P phonemes, H hidden channels."""

    x: jax.Array  # [B, P, H], the hidden text
    durations: jax.Array  # int32 [B, P], frames
    z_p: jax.Array  # [B, F, C], the posterior's sample after the flow
    m_p: jax.Array  # [B, F, C], the prior's mean ...
    logs_p: jax.Array  # [B, F, C], ... and log-scale, expanded to frames


class EncodedText(NamedTuple):
    """A text ready to be spoken; the first half of synthesis."""

    m_p: jax.Array  # [B, P, C]
    logs_p: jax.Array  # [B, P, C]
    durations: jax.Array  # [B, P], whole frames


class Synthesizer(nnx.Module):
    """Text encoder, posterior encoder, flow, duration predictor, decoder."""

    def __init__(self, config: ModelConfig, audio: AudioConfig, *, rngs: nnx.Rngs):
        self.segment_frames = config.segment_size // audio.hop_length
        self.hop_length = audio.hop_length
        self.enc_p = TextEncoder(config, rngs=rngs)
        self.dec = Generator(config, rngs=rngs)
        self.enc_q = PosteriorEncoder(config, audio.spec_channels, rngs=rngs)
        self.flow = ResidualCouplingBlock(config, rngs=rngs)
        predictor = StochasticDurationPredictor if config.use_sdp else DurationPredictor
        self.dp = predictor(config, rngs=rngs)
        self.emb_g = (
            Embedding(config.num_speakers, config.gin_channels, 1.0, rngs=rngs)
            if config.num_speakers > 1
            else None
        )

    def speaker(self, ids: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array | None:
        """Embedding ``[B, 1, G]`` of speakers ``ids [B]``; None for a single-speaker model."""
        return None if self.emb_g is None else self.emb_g(ids)[:, None].astype(dtype)

    def posterior(
        self,
        spec: jax.Array,
        spec_lengths: jax.Array,
        speaker_ids: jax.Array,
        random: Randomness,
        dtype: DTypeLike | None = None,
    ) -> Posterior:
        """Encode recordings; noise "enc_q" ``[F, C]``.

        Args:
            spec: linear spectrogram ``[B, F, bins]``, zero beyond ``spec_lengths [B]`` frames.
            speaker_ids: ``[B]``; not looked at with one speaker.
            random: of the noise.
            dtype: of activations (default: the spectrogram's); what comes out has at least float32.
        """
        dtype = spec.dtype if dtype is None else dtype
        g = self.speaker(speaker_ids, dtype)
        with jax.named_scope("posterior_encoder"):
            z, _, logs_q, y_mask = self.enc_q(spec.astype(dtype), spec_lengths, g, random)
        return Posterior(z, logs_q, y_mask)

    def align(
        self,
        phoneme_ids: jax.Array,
        phoneme_lengths: jax.Array,
        speaker_ids: jax.Array,
        spec_lengths: jax.Array,
        posterior: Posterior,
        random: Randomness,
        dtype: DTypeLike,
    ) -> Alignment:
        """Encode texts, and find which frames say which phoneme.

        Args:
            phoneme_ids: ``[B, P]``, of ``phoneme_lengths [B]``.
            speaker_ids: ``[B]``; not looked at with one speaker.
            spec_lengths: ``[B]``, frames.
            posterior: of the recordings.
            random: of dropout.
            dtype: of activations; what comes out has at least float32.
        """
        g = self.speaker(speaker_ids, dtype)
        z, _, y_mask = posterior
        with jax.named_scope("text_encoder"):
            x, m_p, logs_p, _ = self.enc_p(phoneme_ids, phoneme_lengths, random, dtype)
        with jax.named_scope("flow"):
            z_p = at_least_float32(self.flow(z.astype(dtype), y_mask, g))
        with jax.named_scope("alignment"):
            scores = log_likelihood(*map(lax.stop_gradient, (z_p, m_p, logs_p)))
            taken = durations(scores, phoneme_lengths, spec_lengths)  # [B, P]
            aligned = spread(taken, z.shape[1], m_p.dtype)  # [B, F, P]
            m_p, logs_p = expand(aligned, m_p), expand(aligned, logs_p)
        return Alignment(x, taken, z_p, m_p, logs_p)

    def duration_nll(
        self,
        x: jax.Array,
        phoneme_lengths: jax.Array,
        speaker_ids: jax.Array,
        durations: jax.Array,
        random: Randomness,
    ) -> jax.Array:
        """Negative log-likelihood (or squared error) of durations, summed per row, ``[B]``.

        Of all parameters it trains the predictor's alone. Noise "dp" ``[P, 2]``, dropout.

        Args:
            x: hidden text ``[B, P, H]``, of ``phoneme_lengths [B]``.
            speaker_ids: ``[B]``; not looked at with one speaker.
            durations: ``[B, P]``, frames.
            random: of noise and dropout.
        """
        g = self.speaker(speaker_ids, x.dtype)
        with jax.named_scope("durations"):
            x = at_least_float32(x)
            mask = length_mask(phoneme_lengths, x.shape[1], x.dtype)
            w = durations.astype(x.dtype)[:, :, None]
            return self.dp.negative_log_likelihood(x, mask, g, w, random)

    def segment_start(
        self, spec_lengths: jax.Array, random: Randomness, dtype: jnp.dtype
    ) -> jax.Array:
        """First frame of what the decoder generates of each row, int32 ``[B]``; uniform "segment".

        Every start at which the segment lies inside the utterance is as likely.
        """
        starts = (spec_lengths - (self.segment_frames - 1)).astype(dtype)
        start = random.uniform("segment", dtype) * starts
        return jnp.maximum(start.astype(jnp.int32), 0)

    def generate(self, z: jax.Array, speaker_ids: jax.Array, dtype: DTypeLike) -> jax.Array:
        """Audio ``[B, segment_size]`` of a segment ``z [B, segment_frames, C]``."""
        with jax.named_scope("decoder"):
            return self.dec(z.astype(dtype), self.speaker(speaker_ids, dtype))

    def encode(
        self,
        phoneme_ids: jax.Array,
        phoneme_lengths: jax.Array,
        speaker_ids: jax.Array,
        random: Randomness,
        *,
        length_scale: float | jax.Array = 1.0,
        noise_w: float | jax.Array = 0.8,
    ) -> EncodedText:
        """The prior and the number of frames of each phoneme; noise "dp" ``[P, 2]``."""
        g = self.speaker(speaker_ids)
        x, m_p, logs_p, mask = self.enc_p(phoneme_ids, phoneme_lengths, random)
        log_w = self.dp.log_durations(x, mask, g, random, noise_w)
        durations = jnp.ceil(jnp.exp(log_w) * mask * length_scale)[:, :, 0]
        return EncodedText(m_p, logs_p, durations.astype(jnp.int32))

    def decode(
        self,
        text: EncodedText,
        speaker_ids: jax.Array,
        random: Randomness,
        *,
        n_frames: int,
        noise_scale: float | jax.Array = 0.667,
        alone: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Speak an encoded text; noise "prior" ``[n_frames, C]``.

        Args:
            n_frames: static size of the output; longer texts are cut off.
            alone: end each row as if it had no padding. (In a batch, Piper's decoder runs
                over it, and the last frames of the shorter rows hear it.)

        Returns:
            audio ``[B, n_frames * hop]`` and the frames of it that are speech ``[B]``.
        """
        g = self.speaker(speaker_ids)
        frames = jnp.maximum(jnp.sum(text.durations, axis=1), 1)
        mask = length_mask(frames, n_frames, text.m_p.dtype)
        aligned = spread(text.durations, n_frames, text.m_p.dtype)  # [B, F, P]
        m_p, logs_p = expand(aligned, text.m_p), expand(aligned, text.logs_p)
        noise = random.normal("prior", m_p.shape[1:], m_p.dtype)
        z_p = m_p + noise * jnp.exp(logs_p) * noise_scale
        z = self.flow(z_p, mask, g, reverse=True)
        return self.dec(z * mask, g, mask if alone else None), frames

    def voice_conversion(
        self,
        spec: jax.Array,
        spec_lengths: jax.Array,
        source_ids: jax.Array,
        target_ids: jax.Array,
        random: Randomness,
        *,
        alone: bool = False,
    ) -> jax.Array:
        """Say what ``source_ids [B]`` said in ``spec [B, F, bins]`` with the voices ``target_ids``.

        Args:
            alone: end each row as if it had no padding, as `decode` does.

        Returns:
            audio ``[B, F * hop]``; noise "enc_q" ``[F, C]``.
        """
        source, target = self.speaker(source_ids, spec.dtype), self.speaker(target_ids, spec.dtype)
        z, _, _, mask = self.enc_q(spec, spec_lengths, source, random)
        z = self.flow(self.flow(z, mask, source), mask, target, reverse=True)
        return self.dec(z * mask, target, mask if alone else None)


def expand(aligned: jax.Array, values: jax.Array) -> jax.Array:
    """Values per phoneme ``[B, P, C]`` to values per frame ``[B, F, C]``."""
    # A selection must not round: full precision, whatever the accelerator's default.
    return jnp.einsum("bfp,bpc->bfc", aligned, values, precision=lax.Precision.HIGHEST)


def cut(x: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """``x[b, start[b] : start[b] + size]`` for every row: ``[B, T, ...]`` to ``[B, size, ...]``."""
    return jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, size))(x, start)
