"""The losses of VITS training, as means over the whole batch.

A batch is spread over devices and its last rows may be fillers, so every mean is a
local weighted sum over a global count (``Counts``): summed over the devices, losses
and gradients are those of the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vits_jax.model.discriminator import Features
from vits_jax.model.layers import at_least_float32, total
from vits_jax.model.synthesizer import TrainingOutput


class Counts(NamedTuple):
    """What the whole batch, over all devices, holds."""

    rows: jax.Array
    frames: jax.Array
    phonemes: jax.Array


def row_mean(values: jax.Array, weight: jax.Array, rows: jax.Array) -> jax.Array:
    """This device's share of the mean of ``values [B, ...]``, rows weighted by ``weight [B]``."""
    values = at_least_float32(values)
    per_row = jnp.mean(values, axis=tuple(range(1, values.ndim)))
    return jnp.sum(per_row * weight) / rows


def mel_loss(real: jax.Array, generated: jax.Array, weight: jax.Array, n: Counts) -> jax.Array:
    """L1 distance of log mels ``[B, frames, mels]`` (VITS, eq. 2)."""
    return row_mean(jnp.abs(real - generated), weight, n.rows)


def kl_loss(output: TrainingOutput, weight: jax.Array, n: Counts) -> jax.Array:
    """Divergence of posterior from prior, by one sample, per frame (VITS, eq. 3 and 4).

    As in Piper the sum over the channels is not divided by their number.
    """
    z_p, m_p, logs_p = output.z_p, output.m_p, output.logs_p
    kl = logs_p - output.logs_q - 0.5 + 0.5 * (z_p - m_p) ** 2 * jnp.exp(-2 * logs_p)
    per_row = jnp.sum(kl * output.y_mask.astype(kl.dtype), axis=(1, 2))
    return jnp.sum(per_row * weight) / n.frames


def duration_loss(output: TrainingOutput, weight: jax.Array, n: Counts) -> jax.Array:
    """Negative log-likelihood (or squared error) of the durations per phoneme."""
    return jnp.sum(output.duration_nll * weight) / n.phonemes


def discriminator_loss(
    real: list[Features], generated: list[Features], weight: jax.Array, n: Counts
) -> jax.Array:
    """Least squares: real audio to 1, generated to 0 (HiFi-GAN, eq. 1)."""
    return total(
        row_mean((1 - r[-1]) ** 2, weight, n.rows) + row_mean(g[-1] ** 2, weight, n.rows)
        for r, g in zip(real, generated)
    )


def generator_loss(generated: list[Features], weight: jax.Array, n: Counts) -> jax.Array:
    """Least squares: generated audio to 1 (HiFi-GAN, eq. 2)."""
    return total(row_mean((1 - g[-1]) ** 2, weight, n.rows) for g in generated)


def feature_loss(
    real: list[Features], generated: list[Features], weight: jax.Array, n: Counts
) -> jax.Array:
    """L1 distance of all feature maps, decisions included (HiFi-GAN, eq. 4)."""
    return total(
        row_mean(jnp.abs(at_least_float32(r) - at_least_float32(g)), weight, n.rows)
        for maps in zip(real, generated)
        for r, g in zip(*maps)
    )
