"""Monotonic alignment as a loop over the frames, and what each frame decides."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

FORBIDDEN = -1e9


def advance(
    best: jax.Array, moved: jax.Array, score: jax.Array, column: jax.Array, frame: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One frame of the search, phonemes last.

    Args:
        best: of paths that end on each phoneme at the frame before; all `FORBIDDEN` before frame 0.
        moved: `best` of the phoneme before each; of phoneme 0 what `first` says.
        score: of this frame.
        column: number of each phoneme.
        frame: number of this frame.

    Returns:
        `best` after this frame, and whether the phoneme was reached by a move. A tie is none.
    """
    move = (column == frame) | (best < moved)
    return jnp.where(column <= frame, jnp.maximum(moved, best) + score, FORBIDDEN), move


def first(frame: jax.Array, dtype: DTypeLike) -> jax.Array:
    """What comes before phoneme 0: paths begin there, at frame 0."""
    return jnp.asarray(FORBIDDEN, dtype) * (frame != 0).astype(dtype)


def durations_by_loop(scores: jax.Array, phonemes: jax.Array, frames: jax.Array) -> jax.Array:
    """`alignment.durations` of `maximum_path`: for CPUs, and for what fits into no kernel."""
    batch, n_frames, n_phonemes = scores.shape
    path = maximum_path(scores, phonemes, frames)
    inside = jnp.arange(n_frames, dtype=frames.dtype) < frames[:, None]
    none = jnp.zeros((batch, n_phonemes), jnp.int32)
    return none.at[jnp.arange(batch)[:, None], path].add(inside.astype(jnp.int32))


def maximum_path(scores: jax.Array, phonemes: jax.Array, frames: jax.Array) -> jax.Array:
    """The path that `durations_by_loop` counts.

    Args:
        scores, phonemes, frames: as of `alignment.durations`.

    Returns:
        Phoneme of each frame, int32 ``[B, F]``; frames beyond a row's length hold the last one.
    """
    batch, n_frames, n_phonemes = scores.shape
    column = jnp.arange(n_phonemes, dtype=phonemes.dtype)
    steps = jnp.arange(n_frames, dtype=frames.dtype)
    # Before phoneme 0 there is a place where all paths begin.
    best = jnp.full((batch, n_phonemes + 1), FORBIDDEN, scores.dtype).at[:, 0].set(0.0)

    def forward(best: jax.Array, frame: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Sliced here: frames first, for the loop to slice, would be a copy that takes longer
        # than the search does on a CPU.
        score = lax.dynamic_index_in_dim(scores, frame, axis=1, keepdims=False)
        best, move = advance(best[:, 1:], best[:, :-1], score, column, frame)
        return jnp.pad(best, ((0, 0), (1, 0)), constant_values=FORBIDDEN), move

    _, moves = lax.scan(forward, best, steps)  # [F, B, P]

    def backward(
        phoneme: jax.Array, step: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        frame, move = step
        taken = jnp.take_along_axis(move, phoneme[:, None], axis=1, mode="clip")[:, 0]
        inside = (frame < frames) & (phoneme > 0)
        return phoneme - (inside & taken).astype(phoneme.dtype), phoneme

    _, path = lax.scan(backward, phonemes - 1, (steps, moves), reverse=True)
    return path.swapaxes(0, 1)
