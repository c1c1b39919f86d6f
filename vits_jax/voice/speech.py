"""Synthesis in two compiled stages, for few shapes.

How long a sentence becomes is known when its durations are. So the first stage encodes
the text, the second speaks it, and both are compiled for lengths and numbers of rows that
are powers of two. What is spoken does not depend on that padding, nor on the other rows:
masks end every layer at the true length, and noise is drawn for each position by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.model.audio import spectrogram
from vits_jax.model.networks import abstract_networks
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.randomness import RowRandomness
from vits_jax.model.synthesizer import EncodedText

F = TypeVar("F", bound=Callable[..., Any])

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
    convert: Callable[..., jax.Array]
    """``(parameters, audio [B, F * hop], samples [B], sources, targets, seeds)`` to audio"""


def make_stages(config: Config, platform: str | None = None) -> Stages:
    """The stages for a configuration and a platform (default: that of JAX's first device).

    Arrays decide the devices.
    """
    network = abstract_networks(config).generator

    @_exact
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

    @_exact
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

    @_exact
    def convert(
        parameters: Parameters,
        audio: jax.Array,
        lengths: jax.Array,
        sources: jax.Array,
        targets: jax.Array,
        seeds: jax.Array,
    ) -> jax.Array:
        return bind(network, parameters).voice_conversion(
            spectrogram(audio, lengths, config.audio),
            lengths // config.audio.hop_length,
            sources,
            targets,
            _random(seeds),
            alone=True,
        )

    return Stages(
        jit(encode, platform),
        jit(decode, platform, static_argnames="n_frames"),
        jit(convert, platform),
    )


def _exact(function: F) -> F:
    """Traced with products in float32 as it says, on every accelerator."""

    @functools.wraps(function)
    def exact(*arguments: Any, **named: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **named)

    return cast(F, exact)


def _random(seeds: jax.Array) -> PositionRandomness:
    return PositionRandomness(jax.vmap(jax.random.key)(seeds))


class Sentence(NamedTuple):
    """What to say, and who says it."""

    phoneme_ids: np.ndarray  # int [ids]
    speaker_id: int = 0


class Settings(NamedTuple):
    """How to say it; the same seed gives the same audio."""

    noise_scale: float = 0.667
    length_scale: float = 1.0
    noise_w: float = 0.8
    seed: int = 0


class Spoken(NamedTuple):
    """A sentence as it was said."""

    audio: np.ndarray  # float32 [frames * hop] in [-1, 1]
    durations: np.ndarray  # int32 [ids], frames


def abstract_arguments(
    config: Config, parameters: Parameters, shape: tuple[int, int]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Of both stages for one sentence of a `shape` as `speak` takes it, `jax.ShapeDtypeStruct`s."""

    def array(kind: DTypeLike, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, kind)

    (phonemes, frames), scale = shape, array(jnp.float32)
    of_row, seeds = array(jnp.int32, 1), array(jnp.uint32, 1)
    to_encode = (parameters, array(jnp.int32, 1, phonemes), of_row, of_row, seeds, scale, scale)
    prior = array(jnp.float32, 1, frames, config.model.inter_channels)
    text = EncodedText(prior, prior, array(jnp.int32, 1, frames))
    return to_encode, (parameters, text, of_row, seeds, scale)


def speak(
    stages: Stages,
    parameters: Parameters,
    config: Config,
    sentences: Sequence[Sentence],
    settings: Settings,
    *,
    batch_size: int | None = None,
    shape: tuple[int, int] | None = None,
) -> list[Spoken]:
    """Sentences in batches: those of similar length together.

    Args:
        stages: of `make_stages`.
        parameters: the generator's.
        batch_size: at most so many at once (default: all).
        shape: phoneme ids and frames to compile for (default: the next powers of two);
            speech of more frames is cut off.

    Returns:
        One for each sentence, in their order.
    """
    texts: dict[int, EncodedText] = {}
    spoken: dict[int, Spoken] = {}
    seed, hop = np.uint32(settings.seed), config.audio.hop_length
    lengths = [len(sentence.phoneme_ids) for sentence in sentences]
    size = None if shape is None else shape[0]
    for n_ids, rows in _batches(lengths, SMALLEST_PHONEMES, size, batch_size):
        ids = np.zeros((len(rows), n_ids), np.int32)
        for i, row in enumerate(rows):
            ids[i, : lengths[row]] = sentences[row].phoneme_ids
        encoded = stages.encode(
            parameters,
            ids,
            np.asarray([lengths[row] for row in rows], np.int32),
            _speakers(sentences, rows),
            np.full(len(rows), seed),
            np.float32(settings.length_scale),
            np.float32(settings.noise_w),
        )
        encoded = jax.device_get(encoded)
        for i, row in enumerate(rows):
            texts[row] = EncodedText(*(array[i, : lengths[row]] for array in encoded))

    counts = (np.sum(texts[row].durations, dtype=np.int64) for row in range(len(sentences)))
    totals = [max(1, int(count)) for count in counts]
    size = None if shape is None else shape[1]
    for n_frames, rows in _batches(totals, SMALLEST_FRAMES, size, batch_size):
        # No phoneme lasts less than a frame, so the ids fit as well: one shape per `n_frames`.
        resized = ([_resized(array, n_frames) for array in texts[row]] for row in rows)
        audio, _ = stages.decode(
            parameters,
            EncodedText._make(map(np.stack, zip(*resized))),
            _speakers(sentences, rows),
            np.full(len(rows), seed),
            np.float32(settings.noise_scale),
            n_frames=n_frames,
        )
        samples = np.asarray(audio)
        for i, row in enumerate(rows):
            end = min(totals[row], n_frames) * hop
            spoken[row] = Spoken(samples[i, :end], np.asarray(texts[row].durations))
    return [spoken[row] for row in range(len(sentences))]


def _batches(
    lengths: Sequence[int], smallest: int, size: int | None, batch_size: int | None
) -> Iterator[tuple[int, list[int]]]:
    """Sizes and the rows to compute at that size, each at least once.

    A batch is filled up to a power of two with rows of its own: a shape is compiled for few
    numbers of rows.
    """
    rows_of: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        n = size or min(bucket(length, smallest), MOST_FRAMES)
        rows_of.setdefault(n, []).append(row)
    for n, rows in rows_of.items():
        most = batch_size or bucket(len(rows), 1)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            yield n, [part[i % len(part)] for i in range(min(bucket(len(part), 1), most))]


def _speakers(sentences: Sequence[Sentence], rows: Sequence[int]) -> np.ndarray:
    return np.asarray([sentences[row].speaker_id for row in rows], np.int32)


def _resized(array: Any, length: int) -> np.ndarray:
    """``[P, ...]`` padded with phonemes of no duration, or cut, to ``[length, ...]``."""
    kept = np.asarray(array)[:length]
    return np.pad(kept, [(0, length - len(kept))] + [(0, 0)] * (kept.ndim - 1))


def bucket(length: int, smallest: int) -> int:
    """The first of ``smallest``, twice that, four times that, … that holds `length`."""
    size = smallest
    while size < length:
        size *= 2
    return size


def joined(sentences: Sequence[np.ndarray], silence: int) -> np.ndarray:
    """Sentences ``[samples]`` after each other, with so many samples of silence between."""
    gap = np.zeros(silence, np.float32)
    parts = [part for audio in sentences for part in (gap, audio)]
    return np.concatenate(parts[1:])


def to_int16(audio: np.ndarray) -> np.ndarray:
    """float ``[samples]`` to int16 for a WAV file, the loudest at full scale, as Piper does."""
    scale = 32767.0 / max(0.01, float(np.max(np.abs(audio), initial=0.0)))
    return np.clip(audio * scale, -32767.0, 32767.0).astype(np.int16)
