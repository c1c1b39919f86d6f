"""Metrics against the recording of the same utterance, brought to one time by warping.

The silence before and after the speech (see `clips.silent_frames`) is cut off first: how much of
it there is, is no matter of likeness.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vits_jax.metrics.alignment import euclidean, manhattan, warp
from vits_jax.metrics.clips import Clip, resampled, trimmed
from vits_jax.metrics.metric import needed
from vits_jax.metrics.spectra import log_mel

RATE = 16000
"""Hertz at which pitch and cepstra are taken, so that voices of every rate compare."""
FRAME_SECONDS = 0.005
WARPING = 0.42
"""Of the frequency axis: the all-pass filter that is nearest to the mel scale at 16 kHz."""
CEPSTRA = 24
_FEWEST_VOICED = 10  # frames; of fewer a pitch says nothing


class Analysis(NamedTuple):
    """What WORLD hears in a clip, every 5 ms."""

    pitch: np.ndarray  # float64 [T], hertz, 0 where unvoiced
    cepstra: np.ndarray  # float64 [T, 1 + CEPSTRA], mel-cepstra of the logarithmic amplitude


class Pair(NamedTuple):
    """A clip and its recording along the path that brings them together."""

    clip: Analysis  # [path]
    recording: Analysis  # [path]


def of_each(function: Callable[[Clip], float]) -> Callable[[Sequence[Clip]], np.ndarray]:
    """A function of one clip as one of many: float64 ``[clips]``."""

    @functools.wraps(function)
    def of_all(clips: Sequence[Clip]) -> np.ndarray:
        return np.asarray([function(clip) for clip in clips], np.float64)

    return of_all


@of_each
def mel(clip: Clip) -> float:
    """Mean ``|log mel - log mel'|`` along the warping path that makes it least.

    Of Piper's mel spectrogram (`spectra.log_mel`) at the recording's rate.
    """
    if clip.reference is None:
        return np.nan
    rate = clip.reference.sample_rate
    ours, theirs = (log_mel(trimmed(resampled(c, rate), rate), rate) for c in both(clip))
    distances = manhattan(ours, theirs)
    return float(distances[warp(distances)].mean())


@of_each
def cepstral_distortion(clip: Clip) -> float:
    """Mel-cepstral distortion in dB (Kubichek 1993), over the warping path's steps t:

    ``mean_t (10 / ln 10) · √(2 · Σ_{d=1..24} (c_d(t) - c'_d(t))²)``
    """
    if clip.reference is None:
        return np.nan
    a, b = pair(clip)
    squares = np.square(a.cepstra[:, 1:] - b.cepstra[:, 1:]).sum(1)
    return float(np.mean(10 / np.log(10) * np.sqrt(2 * squares)))


@of_each
def pitch_error(clip: Clip) -> float:
    """Root of the mean of ``(1200 · log2(f / f'))²`` over steps that are voiced in both, cents."""
    if clip.reference is None:
        return np.nan
    a, b = pair(clip)
    voiced = (a.pitch > 0) & (b.pitch > 0)
    if voiced.sum() < _FEWEST_VOICED:
        return np.nan
    cents = 1200 * np.log2(a.pitch[voiced] / b.pitch[voiced])
    return float(np.sqrt(np.mean(np.square(cents))))


@of_each
def voicing_error(clip: Clip) -> float:
    """Share of the path's steps, per cent, where one is voiced and the other is not."""
    if clip.reference is None:
        return np.nan
    a, b = pair(clip)
    return float(100 * np.mean((a.pitch > 0) != (b.pitch > 0)))


def both(clip: Clip) -> tuple[Clip, Clip]:
    """A clip and its recording."""
    assert clip.reference is not None
    return clip, clip.reference


@functools.lru_cache(maxsize=64)
def pair(clip: Clip) -> Pair:
    """A clip that has a recording, and that, warped by their mel-cepstra 1 to 24."""
    ours, theirs = (analyse(each) for each in both(clip))
    rows, columns = warp(euclidean(ours.cepstra[:, 1:], theirs.cepstra[:, 1:]))
    return Pair(
        Analysis(ours.pitch[rows], ours.cepstra[rows]),
        Analysis(theirs.pitch[columns], theirs.cepstra[columns]),
    )


@functools.lru_cache(maxsize=64)
def analyse(clip: Clip) -> Analysis:
    """Pitch by DIO, refined by StoneMask, and the envelope by CheapTrick (Morise 2015, 2016)."""
    world = needed("pyworld")
    audio = trimmed(resampled(clip, RATE), RATE).astype(np.float64)
    pitch, times = world.dio(audio, RATE, frame_period=1000 * FRAME_SECONDS)
    pitch = world.stonemask(audio, pitch, times, RATE)
    power = world.cheaptrick(audio, pitch, times, RATE)  # [T, bins]
    return Analysis(pitch, mel_cepstra(power))


def mel_cepstra(power: np.ndarray) -> np.ndarray:
    """Mel-cepstra of power spectra ``[T, bins]``: ``[T, 1 + CEPSTRA]``.

    ``log |H(ω)| = Σ_m c_m cos(m ω̃)``, where ω̃ is the frequency warped by an all-pass filter
    (Tokuda et al. 1994): the warping is that of Oppenheim and Johnson (1972), exact.
    """
    cepstrum = np.fft.irfft(0.5 * np.log(np.maximum(power, 1e-30)))  # [T, n_fft]
    half = cepstrum[:, : power.shape[1]].copy()
    half[:, 1:-1] *= 2  # both halves of what is symmetric; the last stands alone
    return half @ _warping(power.shape[1])


@functools.lru_cache(maxsize=4)
def _warping(size: int) -> np.ndarray:
    """``[size, 1 + CEPSTRA]``, which takes a cepstrum to the warped axis.

    The recursion of Oppenheim and Johnson feeds one coefficient after another, last first; here
    all unit vectors at once.
    """
    a = WARPING
    state = np.zeros((size, 1 + CEPSTRA))
    for fed in reversed(range(size)):
        old = state.copy()
        state[:, 0] = a * old[:, 0]
        state[fed, 0] += 1
        state[:, 1] = (1 - a * a) * old[:, 0] + a * old[:, 1]
        for m in range(2, 1 + CEPSTRA):
            state[:, m] = old[:, m - 1] + a * (old[:, m] - state[:, m - 1])
    return state
