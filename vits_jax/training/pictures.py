"""Spectrograms and alignments as pictures: NumPy in, uint8 ``[height, width, 3]`` out."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from vits_jax.config import AudioConfig
from vits_jax.model.audio import hann, mel_filters

# From dark to light through purple and orange, as lightness grows evenly: readable in grey, and
# by those who see fewer colours.
_COLOURS = np.array(
    [(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)], np.float32
)
_GAP = 4  # pixels between two pictures
_QUIET = 11.5  # nepers below the loudest that are black: 100 dB


def coloured(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers ``[height, width]`` from `low` to `high` as colours."""
    scaled = np.nan_to_num((values - low) / max(high - low, 1e-9))  # what is not finite is dark
    share = np.clip(scaled, 0, 1) * (len(_COLOURS) - 1)
    at = np.arange(len(_COLOURS))
    channels = [np.interp(share, at, _COLOURS[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def mel(values: np.ndarray, loudest: float | None = None) -> np.ndarray:
    """Log mels ``[frames, channels]``, time to the right, high frequencies on top.

    Args:
        loudest: what is brightest (default: its own maximum).
    """
    high = float(np.max(values, initial=-_QUIET)) if loudest is None else loudest
    return coloured(values.T[::-1], high - _QUIET, high)


def log_mel(audio: np.ndarray, config: AudioConfig) -> np.ndarray:
    """Log mels ``[frames, channels]`` of float ``audio [samples]``, as `model.audio` has them."""
    pad, size, hop = config.reflect, config.filter_length, config.hop_length
    padded = np.pad(audio, pad, mode="reflect") if len(audio) > pad else np.pad(audio, pad)
    padded = np.pad(padded, (0, max(0, size - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    spectrum = np.fft.rfft(frames * hann(size, config.win_length))
    magnitudes = np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-6)
    return np.log(np.maximum(magnitudes @ mel_filters(config).T, 1e-5)).astype(np.float32)


def below(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures under each other, their left edges in line, on grey."""
    width = max(picture.shape[1] for picture in pictures)
    height = sum(picture.shape[0] for picture in pictures) + _GAP * (len(pictures) - 1)
    sheet, top = np.full((height, width, 3), 128, np.uint8), 0
    for picture in pictures:
        sheet[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + _GAP
    return sheet


def alignment(durations: np.ndarray, width: int, scale: int = 2) -> np.ndarray:
    """Which phoneme is said when: frames to the right, phonemes upwards.

    Args:
        durations: int ``[phonemes]``, frames; a broken model asks for millions.
        width: frames at most; what comes later is left out.
        scale: pixels of a phoneme.
    """
    ends = np.minimum(np.cumsum(durations, dtype=np.int64), width)
    frames = np.repeat(np.arange(len(durations)), np.diff(ends, prepend=0))
    said = np.arange(len(durations))[:, None] == frames[None]
    return coloured(np.repeat(said[::-1], scale, axis=0).astype(np.float32), 0, 1.25)


def png(picture: np.ndarray) -> bytes:
    """As a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()
