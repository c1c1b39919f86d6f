"""Monotonic alignment search in plain numpy, as Glow-TTS describes it (Algorithm 1 there).

Slow and obvious on purpose: it stands in for the compiled code that the oracle's wheel
lacks, and is what the alignment on the device is held against.
"""

from __future__ import annotations

import itertools

import numpy as np

OUTSIDE = -1e9


def maximum_path(value: np.ndarray) -> np.ndarray:
    """Best monotonic path through ``value`` [frames, phonemes], frames >= phonemes.

    Every phoneme gets at least one frame; the path starts at the first and ends at the last.
    Where staying and moving score the same it stays. Returns 0/1, same shape and dtype.
    """
    frames, phonemes = value.shape
    outside = value.dtype.type(OUTSIDE)
    best = np.full_like(value, outside)
    best[0, 0] = value[0, 0]
    for frame, phoneme in itertools.product(range(1, frames), range(phonemes)):
        if phoneme > frame:
            continue  # cannot be reached yet
        stay = best[frame - 1, phoneme]
        move = best[frame - 1, phoneme - 1] if phoneme else outside
        best[frame, phoneme] = value[frame, phoneme] + max(stay, move)
    path = np.zeros_like(value)
    phoneme = phonemes - 1
    for frame in range(frames - 1, -1, -1):
        path[frame, phoneme] = 1
        if phoneme and (
            phoneme == frame or best[frame - 1, phoneme] < best[frame - 1, phoneme - 1]
        ):
            phoneme -= 1
    return path


def maximum_path_batch(value: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """[B, frames, phonemes] of ragged lengths, given by the rectangles of ones in ``mask``."""
    path = np.zeros_like(value)
    for row in range(len(value)):
        frames, phonemes = int(mask[row, :, 0].sum()), int(mask[row, 0].sum())
        path[row, :frames, :phonemes] = maximum_path(value[row, :frames, :phonemes])
    return path
