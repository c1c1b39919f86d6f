"""Spectrogram and mel on the device, as Piper computes them.

Magnitudes with Hann window, no centring, the signal reflected at its own two ends;
Slaney mels; natural logarithm. Signals are ``[B, samples]``, spectra ``[B, frames, bins]``.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from vits_jax.config import AudioConfig
from vits_jax.model.forms import forms


def dequantise(audio: jax.Array, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """int16 samples to floats in [-1, 1)."""
    return audio.astype(dtype) / 32768


def spectrogram(audio: jax.Array, lengths: jax.Array, config: AudioConfig) -> jax.Array:
    """Linear magnitudes of padded signals, each as if it were alone.

    Args:
        audio: ``[B, F * hop]``, zero beyond ``lengths [B]`` samples, each at least
            ``config.min_samples``.

    Returns:
        ``[B, F, bins]``, zero from frame ``lengths // hop`` on.
    """
    n_frames = audio.shape[1] // config.hop_length
    magnitudes = _magnitudes(_reflect_at_length(audio, lengths, config.reflect), config)
    inside = jnp.arange(n_frames, dtype=lengths.dtype) < (lengths // config.hop_length)[:, None]
    return jnp.where(inside[:, :, None], magnitudes[:, :n_frames], 0.0)


def mel_from_spectrogram(spec: jax.Array, config: AudioConfig) -> jax.Array:
    """Linear magnitudes ``[B, F, bins]`` to log mels ``[B, F, mel_channels]``."""
    filters = jnp.asarray(mel_filters(config).T, spec.dtype)
    mel = jnp.matmul(spec, filters, precision=lax.Precision.HIGHEST)
    return jnp.log(jnp.maximum(mel, 1e-5))


def mel_spectrogram(audio: jax.Array, config: AudioConfig) -> jax.Array:
    """Log mels ``[B, samples // hop, mel_channels]`` of signals that fill their array."""
    pad = config.reflect
    padded = jnp.pad(audio, ((0, 0), (pad, pad)), mode="reflect")
    return mel_from_spectrogram(_magnitudes(padded, config), config)


def _reflect_at_length(audio: jax.Array, lengths: jax.Array, pad: int) -> jax.Array:
    """Reflect each row at its first and at its own last sample: ``[B, pad + T + pad]``."""

    def one(row: jax.Array, length: jax.Array) -> jax.Array:
        tail = lax.dynamic_slice_in_dim(row, length - 1 - pad, pad)[::-1]
        row = jnp.concatenate([row[1 : pad + 1][::-1], row, jnp.zeros(pad, row.dtype)])
        return lax.dynamic_update_slice_in_dim(row, tail, pad + length, 0)

    return jax.vmap(one)(audio, lengths) if pad else audio


def _magnitudes(padded: jax.Array, config: AudioConfig) -> jax.Array:
    """STFT magnitudes of ``[B, T]``, ``(T - n_fft) // hop + 1`` frames."""
    real, imaginary = stft(padded, config.filter_length, config.hop_length, config.win_length)
    return jnp.sqrt(real**2 + imaginary**2 + 1e-6)


def stft(signal: jax.Array, n_fft: int, hop: int, window: int) -> tuple[jax.Array, jax.Array]:
    """Spectra of ``[B, T]``, not padded: real and imaginary, ``[B, frames, n_fft // 2 + 1]``.

    There are ``(T - n_fft) // hop + 1`` frames; the periodic Hann window of `window` samples is
    in the middle of each.
    """
    n_frames = (signal.shape[1] - n_fft) // hop + 1
    # Overlapping frames as shifted blocks of `hop` samples side by side: no gather.
    n_blocks = -(-n_fft // hop)
    needed = (n_frames + n_blocks - 1) * hop
    signal = jnp.pad(signal, ((0, 0), (0, max(needed - signal.shape[1], 0))))[:, :needed]
    blocks = signal.reshape(signal.shape[0], -1, hop)
    frames = jnp.concatenate([blocks[:, i : i + n_frames] for i in range(n_blocks)], axis=2)
    return _spectrum(frames[:, :, :n_fft] * jnp.asarray(hann(n_fft, window), signal.dtype))


def _spectrum(frames: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The Fourier transform of real ``[..., n]``: real and imaginary, ``[..., n // 2 + 1]``."""
    if not forms().matrix_fft:
        spectrum = jnp.fft.rfft(frames)
        return spectrum.real, spectrum.imag
    n = frames.shape[-1]
    # The angle by whole numbers modulo n: exact, however large the product.
    angle = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(n // 2 + 1)) % n)
    real, imaginary = (
        jnp.matmul(frames, jnp.asarray(matrix, frames.dtype), precision=lax.Precision.HIGHEST)
        for matrix in (np.cos(angle), -np.sin(angle))
    )
    return real, imaginary


def hann(n_fft: int, length: int) -> np.ndarray:
    """Periodic Hann window of `length`, centred in ``[n_fft]``."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    left = (n_fft - length) // 2
    return np.pad(window, (left, n_fft - length - left))


@functools.cache
def mel_filters(config: AudioConfig) -> np.ndarray:
    """Triangular filters of equal area, ``[mel_channels, bins]``, float64.

    The scale is Slaney's (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above.
    """
    f_max = config.mel_fmax or config.sample_rate / 2
    edges = np.linspace(_to_mel(config.mel_fmin), _to_mel(f_max), config.mel_channels + 2)
    edges = _from_mel(edges)
    bins = np.linspace(0, config.sample_rate / 2, config.spec_channels)
    width = np.diff(edges)
    rising = (bins - edges[:-2, None]) / width[:-1, None]
    falling = (edges[2:, None] - bins) / width[1:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


# 1000 Hz is mel 15, 200/3 Hz a mel below; 27 mels span a factor of 6.4 above.
_HERTZ_PER_MEL, _KNEE_HERTZ, _LOG_STEP = 200 / 3, 1000.0, np.log(6.4) / 27
_KNEE_MEL = _KNEE_HERTZ / _HERTZ_PER_MEL


def _to_mel(hertz: float) -> float:
    if hertz < _KNEE_HERTZ:
        return hertz / _HERTZ_PER_MEL
    return _KNEE_MEL + np.log(hertz / _KNEE_HERTZ) / _LOG_STEP


def _from_mel(mel: np.ndarray) -> np.ndarray:
    logarithmic = _KNEE_HERTZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _HERTZ_PER_MEL, logarithmic)
