"""Monotonic alignment search on the device (Kim et al. 2020, Glow-TTS, algorithm 1)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

FORBIDDEN = -1e9


def log_likelihood(z: jax.Array, m: jax.Array, logs: jax.Array) -> jax.Array:
    """Log-density of every frame under every phoneme's Gaussian.

    Args:
        z: latent frames ``[B, F, C]``.
        m, logs: prior mean and log-scale per phoneme ``[B, P, C]``.

    Returns:
        ``[B, F, P]``.
    """
    precision = jnp.exp(-2 * logs)
    constant = jnp.sum(-0.5 * math.log(2 * math.pi) - logs - 0.5 * m * m * precision, axis=2)
    # The paths hang on small differences: full precision, whatever the accelerator's default.
    highest = lax.Precision.HIGHEST
    square = jnp.einsum("bfc,bpc->bfp", -0.5 * z * z, precision, precision=highest)
    cross = jnp.einsum("bfc,bpc->bfp", z, m * precision, precision=highest)
    return constant[:, None] + square + cross


def maximum_path(scores: jax.Array, phonemes: jax.Array, frames: jax.Array) -> jax.Array:
    """Phoneme of each frame on the best monotonic path that skips no phoneme.

    Ties stay on the same phoneme. Rows with fewer frames than phonemes have no such
    path: theirs ends on the last phoneme and starts where the frames run out.

    Args:
        scores: log-likelihoods ``[B, F, P]``.
        phonemes, frames: lengths ``[B]``, at least 1.

    Returns:
        int32 ``[B, F]``; frames beyond a row's length hold the last phoneme.
    """
    _, n_frames, n_phonemes = scores.shape
    column = jnp.arange(n_phonemes, dtype=phonemes.dtype)
    best = jnp.full(scores[:, 0].shape, FORBIDDEN, scores.dtype).at[:, 0].set(0.0)

    def forward(best: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        frame, score = step
        moved = jnp.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=FORBIDDEN)
        # Frame 0 starts on phoneme 0; phoneme p is first reached at frame p, by a move.
        moved = jnp.where(frame == 0, best, moved)
        stayed = jnp.where(column == frame, FORBIDDEN, best)
        move = (column == frame) | (stayed < moved)
        best = jnp.where(column <= frame, jnp.maximum(moved, stayed) + score, FORBIDDEN)
        return best, move

    steps = jnp.arange(n_frames, dtype=frames.dtype)
    _, moves = lax.scan(forward, best, (steps, scores.swapaxes(0, 1)))  # [F, B, P]

    def backward(
        phoneme: jax.Array, step: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        frame, move = step
        taken = jnp.any(move & (column == phoneme[:, None]), axis=1)
        inside = (frame < frames) & (phoneme > 0)
        return phoneme - (inside & taken).astype(phoneme.dtype), phoneme

    _, path = lax.scan(backward, phonemes - 1, (steps, moves), reverse=True)
    return path.swapaxes(0, 1)
