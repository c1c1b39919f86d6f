"""Monotonic alignment search on the device (Kim et al. 2020, Glow-TTS, algorithm 1)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vits_jax.model.alignment_loop import durations_by_loop
from vits_jax.model.forms import forms


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


def durations(scores: jax.Array, phonemes: jax.Array, frames: jax.Array) -> jax.Array:
    """Frames of each phoneme on the best monotonic path that skips no phoneme.

    Ties stay on the same phoneme. Rows with fewer frames than phonemes have no such path:
    theirs ends on the last phoneme and starts where the frames run out.

    Args:
        scores: log-likelihoods ``[B, F, P]``, finite.
        phonemes, frames: lengths ``[B]``, at least 1.

    Returns:
        int32 ``[B, P]``; a row's sum is its frames.
    """
    if forms().alignment_kernel:
        # Imported here: Pallas takes a quarter of a second, and a CPU has no use for it.
        from vits_jax.model import alignment_kernel

        if alignment_kernel.fits(scores.shape):
            return alignment_kernel.durations(scores, phonemes, frames)
    return durations_by_loop(scores, phonemes, frames)


def spread(durations: jax.Array, n_frames: int, dtype: DTypeLike) -> jax.Array:
    """Which phoneme each frame belongs to, one-hot ``[B, n_frames, P]``.

    Args:
        durations: whole frames of each phoneme ``[B, P]``.
        n_frames: frames beyond a row's durations belong to none; what is longer is cut off.
        dtype: of the ones and zeros.
    """
    ends = jnp.cumsum(durations, axis=1)[:, None]  # [B, 1, P]
    begins = ends - durations[:, None]
    frame = jnp.arange(n_frames, dtype=ends.dtype)[:, None]
    return ((frame >= begins) & (frame < ends)).astype(dtype)
