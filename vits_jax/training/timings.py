"""Which phoneme each frame of a recording says, before anything can be told from the recording.

Training finds it by how likely a recording's latent variables are (`model.alignment`), which a
posterior encoder has to know first: one that knew little put phonemes half a second off, and
learnt from that (docs/log.md). But the voice that is there says the same text, and knows when it
says what. Its speech and the recording are brought to one time by their cepstra (dynamic time
warping, Sakoe and Chiba 1978), each utterance's by itself normalised, as two people say it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from vits_jax.config import Config
from vits_jax.data.manifest import Dataset
from vits_jax.metrics.alignment import euclidean, warp
from vits_jax.metrics.spectra import log_mel
from vits_jax.model.parameters import Parameters
from vits_jax.voice.speech import Sentence, Settings, Stages, speak

MOST_FRAMES = 2048
"""Of an utterance, recorded or said by the voice; a longer one is not timed."""

_HOP = 256  # of `log_mel`
_CEPSTRA = 14
_RANGE = 8.0  # natural logarithms: what lies further below an utterance's loudest is silence
_CHANGE = 2.0  # how much a frame's change counts beside what it is
_CLEARLY = Settings(noise_scale=0.3, noise_w=0.0)


def timings(
    stages: Stages,
    config: Config,
    generator: Parameters,
    dataset: Dataset,
    rows: np.ndarray,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[int, np.ndarray]:
    """``{row: int32 [frames]}``: of each whole frame of a recording, which phoneme of its text.

    Phonemes come in their order; one may have no frame.

    Args:
        stages: of the voice.
        config: of the run.
        generator: the voice's parameters.
        dataset: of recordings and texts.
        rows: of it, ``[rows]``.
        interrupted: whether to stop, with those that were found until then.
    """
    hop, found = config.audio.hop_length, dict[int, np.ndarray]()
    lengths = dataset.samples[rows] // hop
    rows = rows[(lengths > 0) & (lengths <= MOST_FRAMES)]
    if not len(rows):
        return found
    frames = min(MOST_FRAMES, _up(int(1.5 * dataset.samples[rows].max()) // hop, 256))
    shape = longest(dataset, rows), frames
    for row in rows.tolist():
        if interrupted():
            break
        sentence = Sentence(dataset.phoneme_ids(row), int(dataset.speaker_ids[row]))
        (spoken,) = speak(stages, generator, config, [sentence], _CLEARLY, shape=shape)
        recording = dataset.audio(row).astype(np.float32) / 32768
        if 0 < spoken.durations.sum() <= frames:
            found[row] = timed(
                spoken.audio, spoken.durations, recording, hop, config.audio.sample_rate
            )
    return found


def longest(dataset: Dataset, rows: np.ndarray) -> int:
    """For how many phonemes the voice is compiled, to say the texts of some rows."""
    return _up(int(dataset.id_lengths[rows].max()), 64)


def timed(
    spoken: np.ndarray, durations: np.ndarray, recording: np.ndarray, hop: int, rate: int
) -> np.ndarray:
    """Of each whole frame of a recording, the number of its phoneme: int32 ``[frames]``.

    Args:
        spoken: the same text, ``[samples]`` in [-1, 1].
        durations: of its phonemes, frames, int ``[phonemes]``.
        recording: ``[samples]`` in [-1, 1].
        hop: samples of a frame.
        rate: samples a second, of both.
    """
    there, here = warp(euclidean(_cepstra(spoken, rate), _cepstra(recording, rate)))
    phoneme = np.repeat(np.arange(len(durations)), durations)
    # Of the frames of the path that lie at a frame of the recording, the one in the middle.
    at = np.arange(len(recording) // hop) * hop // _HOP
    first, last = (np.searchsorted(here, at, side=side) for side in ("left", "right"))
    middle = there[(first + np.maximum(last, first + 1) - 1) // 2]
    return phoneme[np.minimum(middle * _HOP // hop, len(phoneme) - 1)].astype(np.int32)


def _cepstra(audio: np.ndarray, rate: int) -> np.ndarray:
    """What is said rather than by whom: float64 ``[frames, 2 · _CEPSTRA]``."""
    mel = log_mel(audio, rate)
    cepstra = np.maximum(mel, mel.max() - _RANGE) @ _cosines(mel.shape[1])
    loudness, shape = cepstra[:, :1], cepstra[:, 1:]
    shape = shape - shape.mean(0)
    both = np.concatenate(
        [(loudness - np.quantile(loudness, 0.9)) / _spread(loudness), shape / _spread(shape)], 1
    )
    return np.concatenate([both, _CHANGE * np.gradient(both, axis=0)], 1)


def _spread(x: np.ndarray) -> float:
    return float(x.std()) or 1.0


@functools.lru_cache(maxsize=4)
def _cosines(size: int) -> np.ndarray:
    """The first of an orthonormal discrete cosine transform (type 2): ``[size, _CEPSTRA]``."""
    at = (np.arange(size)[:, None] + 0.5) * np.arange(_CEPSTRA)[None]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * at / size)
    matrix[:, 0] /= np.sqrt(2)
    return matrix


def _up(number: int, multiple: int) -> int:
    return max(1, -(-number // multiple)) * multiple
