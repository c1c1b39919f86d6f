"""Loudness, clipping, silence and tempo."""

from __future__ import annotations

import warnings

import numpy as np

from vits_jax.metrics.aligned import of_each
from vits_jax.metrics.clips import Clip, silent_frames, spoken_span
from vits_jax.metrics.metric import needed

_FULL_SCALE = 0.999
_BLOCK_SECONDS = 0.4  # of BS.1770's gating
_LEAST_SECONDS = 0.02  # of which loudness is said


@of_each
def loudness(clip: Clip) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4).

    A clip that is shorter than one gating block, 0.4 s, is one block.
    """
    if clip.seconds < _LEAST_SECONDS:
        return np.nan
    meter = needed("pyloudnorm").Meter(
        clip.sample_rate, block_size=min(_BLOCK_SECONDS, clip.seconds)
    )
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")
        level = float(meter.integrated_loudness(clip.audio.astype(np.float64)))
    return level if np.isfinite(level) else np.nan


@of_each
def clipping(clip: Clip) -> float:
    """Share of the samples, per cent, in runs of three or more at full scale (0.999 and above)."""
    full = np.abs(clip.audio) >= _FULL_SCALE
    middle = full[:-2] & full[1:-1] & full[2:]
    runs = np.zeros_like(full)
    for shift in range(3):
        runs[shift : len(full) - 2 + shift] |= middle
    return float(100 * runs.mean())


@of_each
def silence(clip: Clip) -> float:
    """Share of the frames of 10 ms, per cent, that are 40 dB and more below the loudest one."""
    return float(100 * silent_frames(clip.audio, clip.sample_rate).mean())


@of_each
def tempo(clip: Clip) -> float:
    """Letters and digits of the text per second between the first and the last loud frame."""
    count = sum(map(str.isalnum, clip.text or ""))
    if not count:
        return np.nan
    first, last = spoken_span(clip.audio, clip.sample_rate)
    return count * clip.sample_rate / (last - first)
