"""Recordings through the autoencoder: what the decoder makes of them, and how texts lie on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Wrapped

from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.model.audio import dequantise, spectrogram
from vits_jax.model.networks import abstract_networks
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.randomness import RowRandomness
from vits_jax.voice.speech import PositionRandomness


class Reconstructed(NamedTuple):
    """Of recordings and their texts."""

    audio: jax.Array  # float32 [B, F * hop]
    durations: jax.Array  # int32 [B, P], frames of each phoneme in the recording


def make_reconstruct(config: Config, platform: str) -> Wrapped:
    """``reconstruct(parameters, phoneme_ids [B, P], lengths [B], audio int16 [B, F * hop],
    samples [B], speakers [B])``, without dropout, with the same noise each time."""
    network, hop = abstract_networks(config).generator, config.audio.hop_length

    def reconstruct(
        parameters: Parameters,
        phoneme_ids: jax.Array,
        lengths: jax.Array,
        audio: jax.Array,
        samples: jax.Array,
        speakers: jax.Array,
    ) -> Reconstructed:
        model = bind(network, parameters)
        keys = jax.vmap(jax.random.key)(jnp.zeros(len(lengths), jnp.uint32))
        spec, frames = spectrogram(dequantise(audio), samples, config.audio), samples // hop
        posterior = model.posterior(spec, frames, speakers, PositionRandomness(keys))
        random = RowRandomness(keys, dropout=False)
        aligned = model.align(phoneme_ids, lengths, speakers, frames, posterior, random, spec.dtype)
        g = model.speaker(speakers)
        made = model.dec(posterior.z * posterior.y_mask, g, posterior.y_mask)
        return Reconstructed(made, aligned.durations)

    return jit(reconstruct, platform)


def abstract_arguments(config: Config, parameters: Any, shape: tuple[int, int]) -> tuple[Any, ...]:
    """Of `make_reconstruct` for one recording of at most ``shape``, phonemes and frames."""
    phonemes, frames = shape
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    ids = jax.ShapeDtypeStruct((1, phonemes), jnp.int32)
    audio = jax.ShapeDtypeStruct((1, frames * config.audio.hop_length), jnp.int16)
    return parameters, ids, one, audio, one, one
