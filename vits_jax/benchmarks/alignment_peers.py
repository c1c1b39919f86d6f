"""Monotonic alignment as others write it: in numpy, and as a compiled loop. Without JAX.

Piper compiles such a loop with Cython (`monotonic_align`), one utterance after the other; its
wheel lacks it. This one follows Algorithm 1 of Glow-TTS (Kim et al. 2020) the same way.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Search = Callable[[Array, Array, Array], Array]
"""Scores float32 ``[B, F, P]`` and lengths int32 ``[B]``, phonemes and frames, to the path of
each row, int32 ``[B, F]``; of frames beyond its length nothing is said."""

_C = r"""
#include <stdint.h>

static float better(float a, float b) { return a > b ? a : b; }

static void one(const float *scores, int phonemes, int frames, int width, float *best,
                int32_t *path) {
    for (int y = 0; y < frames; y++) {
        const int from = phonemes + y - frames > 0 ? phonemes + y - frames : 0;
        const int to = phonemes < y + 1 ? phonemes : y + 1;
        for (int x = from; x < to; x++) {
            const float *before = best + (long)(y - 1) * width + x;
            const float stay = x == y ? -1e9f : before[0];
            const float move = x == 0 ? (y == 0 ? 0.0f : -1e9f) : before[-1];
            best[(long)y * width + x] = scores[(long)y * width + x] + better(stay, move);
        }
    }
    for (int y = frames - 1, x = phonemes - 1; y >= 0; y--) {
        const float *before = best + (long)(y - 1) * width + x;
        path[y] = x;
        if (x > 0 && (x == y || before[0] < before[-1])) x--;
    }
}

void align(const float *scores, const int32_t *phonemes, const int32_t *frames, int batch,
           int height, int width, float *best, int32_t *path) {
    for (int row = 0; row < batch; row++) {
        const long start = (long)row * height * width;
        one(scores + start, phonemes[row], frames[row], width, best + start,
            path + (long)row * height);
    }
}
"""


def numpy_path(scores: Array, phonemes: Array, frames: Array) -> Array:
    """A `Search` over batch and phonemes at once, for rows of at least as many frames."""
    batch, n_frames, n_phonemes = scores.shape
    best = np.full((batch, n_phonemes), -1e9, np.float32)
    best[:, 0] = scores[:, 0, 0]
    moves = np.zeros((n_frames, batch, n_phonemes), bool)
    for frame in range(1, n_frames):
        moved = np.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=-1e9)
        moves[frame] = best < moved
        best = np.maximum(best, moved) + scores[:, frame]
    rows, at = np.arange(batch), phonemes - 1
    path = np.empty((batch, n_frames), np.int32)
    for frame in range(n_frames - 1, -1, -1):
        path[:, frame] = at
        taken = moves[frame, rows, at] | (at == frame)
        at = at - (taken & (at > 0) & (frame < frames))
    return path


def compiled_loop() -> Search | None:
    """The loop in C, compiled now as for a wheel that is built here; None without a compiler.

    Needs at least as many frames as phonemes in each row, as Piper's does.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        source, library = Path(name, "align.c"), Path(name, "align.so")
        source.write_text(_C, encoding="utf-8")
        options = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([compiler, *options, "-o", str(library), str(source)], check=True)
        align = ctypes.CDLL(str(library)).align  # stays loaded when its file is gone

    def search(scores: Array, phonemes: Array, frames: Array) -> Array:
        best = np.empty(scores.shape, np.float32)
        path = np.zeros(scores.shape[:2], np.int32)
        of = np.ctypeslib.as_ctypes
        align(of(scores), of(phonemes), of(frames), *scores.shape, of(best), of(path))
        return path

    return search
