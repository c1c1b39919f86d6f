"""Likeness to a speaker: a GE2E speaker encoder (Wan et al. 2018), Resemblyzer's, in NumPy.

The package ``Resemblyzer`` ships the weights; nothing of it is imported, as it would import
PyTorch. Its voice activity detection is left out: silences inside the speech are heard too.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vits_jax.metrics.clips import Clip, resampled
from vits_jax.metrics.metric import NotTaken
from vits_jax.metrics.spectra import mel_power
from vits_jax.metrics.torch_file import read_tensors

RATE = 16000
_HOP, _N_FFT, _MELS = 160, 400, 40
_FRAMES = 160  # of a part, 1.6 s
_STEP = round(RATE / 1.3 / _HOP)  # frames between parts: 1.3 of them a second
_COVERAGE = 0.75  # of a last part: with less speech in it, it is left out
_DECIBELS = -30.0  # what is quieter is made as loud as this
_LAYERS, _WIDTH = 3, 256
_INSTALL = "pip install --no-deps Resemblyzer==0.1.4 (with what it asks for it would bring PyTorch)"


class _Layer(NamedTuple):
    """An LSTM layer; gates in the order input, forget, cell, output."""

    of_input: np.ndarray  # [in, 4 · _WIDTH]
    of_state: np.ndarray  # [_WIDTH, 4 · _WIDTH]
    bias: np.ndarray  # [4 · _WIDTH]


class _Encoder(NamedTuple):
    layers: tuple[_Layer, ...]
    weight: np.ndarray  # [_WIDTH, _WIDTH]
    bias: np.ndarray  # [_WIDTH]


def similarity(clips: Sequence[Clip], recordings: Sequence[Clip]) -> np.ndarray:
    """Cosine between a clip and the mean embedding of its speaker's recordings.

    Neither the clip itself nor the recording of its utterance is in that mean, so that the
    recordings' own scores are taken of the same.

    Args:
        clips: what is scored.
        recordings: of all speakers.

    Returns:
        float64 ``[clips]``, NaN where the speaker has no other recording or nothing is heard.
    """
    cosines = np.full(len(clips), np.nan)
    embedded = [(each, embedding(each)) for each in recordings]
    for i, clip in enumerate(clips):
        others = [
            vector
            for each, vector in embedded
            if each.speaker == clip.speaker
            and each is not clip
            and each is not clip.reference
            and vector is not None
        ]
        own = embedding(clip)
        if own is not None and others:
            mean = np.mean(others, axis=0)
            cosines[i] = own @ mean / np.linalg.norm(mean)
    return cosines


@functools.lru_cache(maxsize=1024)
def embedding(clip: Clip) -> np.ndarray | None:
    """Where the encoder puts a clip, float32 ``[256]`` of norm 1; None of silence."""
    audio = louder(resampled(clip, RATE))
    if not audio.any():
        return None
    return embed(audio)


def louder(audio: np.ndarray) -> np.ndarray:
    """``[samples]``, made louder to -30 dB below full scale where it is quieter."""
    rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
    if rms == 0:
        return audio
    gain = 10 ** (_DECIBELS / 20) / rms
    return (audio * gain).astype(np.float32) if gain > 1 else audio


def embed(audio: np.ndarray) -> np.ndarray:
    """``[samples]`` at 16 kHz to the mean of its parts' embeddings: float32 ``[256]``, norm 1."""
    starts = _parts(len(audio))
    end = (starts[-1] + _FRAMES) * _HOP
    padded = np.pad(audio, (0, max(0, end - len(audio))))
    mels = mel_power(padded, RATE, _N_FFT, _HOP, _MELS).astype(np.float32)
    vectors = _forward(_encoder(), np.stack([mels[s : s + _FRAMES] for s in starts]))
    mean = vectors.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean))


def _parts(samples: int) -> list[int]:
    """Frames at which parts begin."""
    frames = -(-(samples + 1) // _HOP)
    starts = list(range(0, max(1, frames - _FRAMES + _STEP + 1), _STEP))
    if len(starts) > 1 and samples / _HOP - starts[-1] < _COVERAGE * _FRAMES:
        starts.pop()
    return starts


def _forward(encoder: _Encoder, mels: np.ndarray) -> np.ndarray:
    """float32 ``[parts, frames, mels]`` to ``[parts, 256]``, each of norm 1."""
    x = mels
    for layer in encoder.layers:
        from_input = x @ layer.of_input + layer.bias  # [parts, frames, 4 · _WIDTH]
        state = cell = np.zeros((len(x), _WIDTH), np.float32)
        states = np.empty((*x.shape[:2], _WIDTH), np.float32)
        for t in range(x.shape[1]):
            i, f, g, o = np.split(from_input[:, t] + state @ layer.of_state, 4, axis=1)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
            state = _sigmoid(o) * np.tanh(cell)
            states[:, t] = state
        x = states
    raw = np.maximum(x[:, -1] @ encoder.weight + encoder.bias, 0)
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))  # as it stands exp(-x) would overflow


@functools.lru_cache(maxsize=1)
def _encoder() -> _Encoder:
    found = importlib.util.find_spec("resemblyzer")  # looked for, not imported
    if found is None or not found.submodule_search_locations:
        raise NotTaken(f"Resemblyzer is not installed: {_INSTALL}")
    path = Path(found.submodule_search_locations[0]) / "pretrained.pt"
    try:
        tensors = read_tensors(path.read_bytes(), "model_state")
        layers = tuple(
            _Layer(
                np.ascontiguousarray(tensors[f"lstm.weight_ih_l{i}"].T),
                np.ascontiguousarray(tensors[f"lstm.weight_hh_l{i}"].T),
                tensors[f"lstm.bias_ih_l{i}"] + tensors[f"lstm.bias_hh_l{i}"],
            )
            for i in range(_LAYERS)
        )
        return _Encoder(layers, tensors["linear.weight"].T, tensors["linear.bias"])
    except (OSError, ValueError, KeyError) as error:
        raise NotTaken(f"{path}: not the weights that are expected: {error}") from error
