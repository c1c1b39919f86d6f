"""Spectra in NumPy: frames, mel filters."""

from __future__ import annotations

import functools

import numpy as np


def frames(audio: np.ndarray, size: int, hop: int) -> np.ndarray:
    """``[samples]`` to the frames that fit in it, a view ``[frames, size]``."""
    return np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]


def hann(size: int) -> np.ndarray:
    """A periodic Hann window ``[size]``."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


@functools.lru_cache(maxsize=16)
def mel_filters(rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Triangles of Slaney's mel scale up to Nyquist, each of area 1: float64 ``[n_mels, bins]``.

    As in the Auditory Toolbox (Slaney 1998): linear below 1 kHz, logarithmic above.
    """
    break_hertz, break_mel, step = 1000.0, 15.0, np.log(6.4) / 27

    def to_hertz(mels: np.ndarray) -> np.ndarray:
        above = break_hertz * np.exp(step * (mels - break_mel))
        return np.where(mels < break_mel, mels * break_hertz / break_mel, above)

    top = rate / 2
    linear = top * break_mel / break_hertz
    most = linear if top < break_hertz else break_mel + np.log(top / break_hertz) / step
    edges = to_hertz(np.linspace(0, most, n_mels + 2))  # [n_mels + 2]
    bins = np.linspace(0, top, n_fft // 2 + 1)
    if n_fft % 2:  # the last bin of an odd FFT lies below Nyquist
        bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    widths = np.diff(edges)
    slopes = edges[:, None] - bins[None]
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return triangles * (2 / (edges[2:] - edges[:-2]))[:, None]


def log_mel(audio: np.ndarray, rate: int) -> np.ndarray:
    """What Piper's reconstruction loss compares: float64 ``[frames, 80]``, natural logarithms.

    FFT 1024, hop 256, reflected by 384 samples on each side (short audio is padded with zeros
    first), ``log(max(mel · √(re² + im² + 1e-6), 1e-5))``.
    """
    n_fft, hop = 1024, 256
    reflect = (n_fft - hop) // 2
    audio = np.pad(audio.astype(np.float64), (0, max(0, n_fft - len(audio))))
    padded = np.pad(audio, reflect, mode="reflect")
    spectrum = np.fft.rfft(frames(padded, n_fft, hop) * hann(n_fft))
    magnitude = np.sqrt(np.square(np.abs(spectrum)) + 1e-6)
    return np.log(np.maximum(magnitude @ mel_filters(rate, n_fft, 80).T, 1e-5))


def mel_power(audio: np.ndarray, rate: int, n_fft: int, hop: int, n_mels: int) -> np.ndarray:
    """Mel spectrogram of power: float64 ``[frames, n_mels]``.

    Frames are centred, with zeros beyond the ends: librosa's default, which other people's
    networks were trained on.
    """
    padded = np.pad(audio.astype(np.float64), n_fft // 2)
    spectrum = np.fft.rfft(frames(padded, n_fft, hop) * hann(n_fft))
    return np.square(np.abs(spectrum)) @ mel_filters(rate, n_fft, n_mels).T
