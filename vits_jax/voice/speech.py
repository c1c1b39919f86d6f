"""Synthesis in two compiled stages, for few shapes.

How long a sentence becomes is known when its durations are. So the first stage encodes
the text, the second speaks it, and both are compiled for lengths that are powers of two.
What is spoken does not depend on that padding: masks end every layer at the true
length, and noise is drawn for each position by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vits_jax.config import Config
from vits_jax.model.networks import abstract_networks
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.randomness import RowRandomness
from vits_jax.model.synthesizer import EncodedText

SMALLEST_PHONEMES, SMALLEST_FRAMES = 64, 128
MOST_FRAMES = 1 << 15  # over six minutes; an untrained model may ask for any length


class PositionRandomness(RowRandomness):
    """Noise that depends on the position, not on how many positions there are."""

    def __init__(self, row_keys: jax.Array):
        super().__init__(row_keys, dropout=False)

    def normal(self, name: str, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        """Standard normal noise ``[B, T, C]`` for ``shape`` ``(T, C)``."""
        length, *rest = shape

        def at(key: jax.Array, position: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, position), tuple(rest), dtype)

        by_position = jax.vmap(at, (None, 0))
        return jax.vmap(by_position, (0, None))(self._keys(name), jnp.arange(length))


class Stages(NamedTuple):
    """The compiled functions; seeds and speaker ids are ``[B]``, scales are scalars."""

    encode: Callable[..., EncodedText]
    """``(parameters, phoneme_ids [B, P], lengths [B], speakers, seeds, length_scale, noise_w)``"""
    decode: Callable[..., tuple[jax.Array, jax.Array]]
    """``(parameters, text, speakers, seeds, noise_scale, *, n_frames)`` to audio and frames"""


def make_stages(config: Config) -> Stages:
    """Both stages for a configuration; arrays decide the devices."""
    network = abstract_networks(config).generator

    def encode(
        parameters: Parameters,
        phoneme_ids: jax.Array,
        lengths: jax.Array,
        speakers: jax.Array,
        seeds: jax.Array,
        length_scale: jax.Array,
        noise_w: jax.Array,
    ) -> EncodedText:
        text = bind(network, parameters).encode(
            phoneme_ids,
            lengths,
            speakers,
            _random(seeds),
            length_scale=length_scale,
            noise_w=noise_w,
        )
        return text._replace(durations=jnp.clip(text.durations, 0, MOST_FRAMES))

    def decode(
        parameters: Parameters,
        text: EncodedText,
        speakers: jax.Array,
        seeds: jax.Array,
        noise_scale: jax.Array,
        *,
        n_frames: int,
    ) -> tuple[jax.Array, jax.Array]:
        return bind(network, parameters).decode(
            text, speakers, _random(seeds), n_frames=n_frames, noise_scale=noise_scale, alone=True
        )

    return Stages(jax.jit(encode), jax.jit(decode, static_argnames="n_frames"))


def _random(seeds: jax.Array) -> PositionRandomness:
    return PositionRandomness(jax.vmap(jax.random.key)(seeds))


def speak(
    stages: Stages,
    parameters: Parameters,
    config: Config,
    phoneme_ids: np.ndarray,
    *,
    speaker_id: int = 0,
    noise_scale: float = 0.667,
    length_scale: float = 1.0,
    noise_w: float = 0.8,
    seed: int = 0,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """One utterance.

    Args:
        stages: of `make_stages`.
        parameters: the generator's.
        phoneme_ids: int ``[ids]``.
        shape: phoneme ids and frames to compile for (default: the next powers of two);
            speech of more frames is cut off.

    Returns:
        float32 ``[frames * hop]`` in [-1, 1].
    """
    n_ids = bucket(len(phoneme_ids), SMALLEST_PHONEMES) if shape is None else shape[0]
    ids = np.zeros((1, n_ids), np.int32)
    ids[0, : len(phoneme_ids)] = phoneme_ids
    speakers, seeds = np.asarray([speaker_id], np.int32), np.asarray([seed], np.uint32)
    with jax.default_matmul_precision("highest"):  # float32 as it says, on every accelerator
        text = stages.encode(
            parameters,
            ids,
            np.asarray([len(phoneme_ids)], np.int32),
            speakers,
            seeds,
            np.float32(length_scale),
            np.float32(noise_w),
        )
        text = jax.device_get(text)
        total = int(text.durations.sum(dtype=np.int64))
        n_frames = bucket(total, SMALLEST_FRAMES) if shape is None else shape[1]
        n_frames = min(n_frames, MOST_FRAMES)
        # No phoneme lasts less than a frame, so the ids fit as well: one shape per `n_frames`.
        audio, frames = stages.decode(
            parameters,
            _resized(text, n_frames),
            speakers,
            seeds,
            np.float32(noise_scale),
            n_frames=n_frames,
        )
    samples = min(int(frames[0]), n_frames) * config.audio.hop_length
    return np.asarray(audio)[0, :samples]


def bucket(length: int, smallest: int) -> int:
    """The first of ``smallest``, twice that, four times that, … that holds `length`."""
    size = smallest
    while size < length:
        size *= 2
    return size


def _resized(text: EncodedText, length: int) -> EncodedText:
    """Padded with phonemes of no duration, or cut, to ``[B, length, ...]``."""

    def resize(array: jax.Array) -> Any:
        kept = np.asarray(array)[:, :length]
        missing = length - kept.shape[1]
        return np.pad(kept, [(0, 0), (0, missing)] + [(0, 0)] * (kept.ndim - 2))

    return EncodedText(*map(resize, text))


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Samples for a WAV file, the loudest at full scale, as Piper writes them."""
    scale = 32767.0 / max(0.01, float(np.max(np.abs(audio), initial=0.0)))
    return np.clip(audio * scale, -32767.0, 32767.0).astype(np.int16)
