"""The losses of VITS training, as means over the whole batch.

A batch is spread over devices and its last rows may be fillers, so every mean is a
local weighted sum over a global count (`Rows`): summed over the devices, losses and
gradients are those of the whole batch. Every loss is such a share, ``[]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from vits_jax.model.arithmetic import at_least_float32, total
from vits_jax.model.discriminator import Features
from vits_jax.model.synthesizer import Alignment, Posterior


class Rows(NamedTuple):
    """The rows of a batch.

    Attributes:
        weight: ``[B]`` of this device's rows, 0 of fillers.
        rows: ``[]``, what the weights of the whole batch come to, over all devices.
        frames: ``[]``, of the whole batch.
        phonemes: ``[]``, of the whole batch.
    """

    weight: jax.Array
    rows: jax.Array
    frames: jax.Array
    phonemes: jax.Array


def count_rows(
    batch: Mapping[str, jax.Array], hop_length: int, dtype: DTypeLike, axis: str
) -> Rows:
    """Of a batch (`load_batch`) whose rows are spread over the mesh's `axis`."""
    weight = batch["weight"].astype(dtype)
    frames = (batch["audio_lengths"] // hop_length).astype(dtype)
    sums = [weight, weight * frames, weight * batch["phoneme_lengths"].astype(dtype)]
    return Rows(weight, *lax.psum([jnp.sum(x) for x in sums], axis))


def row_mean(values: jax.Array, n: Rows) -> jax.Array:
    """This device's share of the weighted mean of ``values [B, ...]``."""
    values = at_least_float32(values)
    per_row = jnp.mean(values, axis=tuple(range(1, values.ndim)))
    return jnp.sum(per_row * n.weight) / n.rows


def mel_loss(real: jax.Array, generated: jax.Array, n: Rows) -> jax.Array:
    """L1 distance of log mels ``[B, frames, mels]`` (VITS, eq. 2)."""
    return row_mean(jnp.abs(real - generated), n)


def kl_loss(alignment: Alignment, posterior: Posterior, n: Rows) -> jax.Array:
    """Divergence of posterior from prior, by one sample, per frame (VITS, eq. 3 and 4), ``[]``.

    As in Piper the sum over the channels is not divided by their number.
    """
    z_p, m_p, logs_p = alignment.z_p, alignment.m_p, alignment.logs_p
    kl = logs_p - posterior.logs_q - 0.5 + 0.5 * (z_p - m_p) ** 2 * jnp.exp(-2 * logs_p)
    per_row = jnp.sum(kl * posterior.y_mask.astype(kl.dtype), axis=(1, 2))
    return jnp.sum(per_row * n.weight) / n.frames


def duration_loss(nll: jax.Array, n: Rows) -> jax.Array:
    """Negative log-likelihood (or squared error) of the durations ``[B]`` per phoneme, ``[]``."""
    return jnp.sum(nll * n.weight) / n.phonemes


def discriminator_loss(real: list[Features], generated: list[Features], n: Rows) -> jax.Array:
    """Least squares: real audio to 1, generated to 0 (HiFi-GAN, eq. 1), ``[]``."""
    return total(
        row_mean((1 - at_least_float32(r[-1])) ** 2, n) + row_mean(at_least_float32(g[-1]) ** 2, n)
        for r, g in zip(real, generated)
    )


def generator_loss(generated: list[Features], n: Rows) -> jax.Array:
    """Least squares: generated audio to 1 (HiFi-GAN, eq. 2), ``[]``."""
    return total(row_mean((1 - at_least_float32(g[-1])) ** 2, n) for g in generated)


def feature_loss(real: list[Features], generated: list[Features], n: Rows) -> jax.Array:
    """L1 distance of all feature maps, decisions included (HiFi-GAN, eq. 4), ``[]``."""
    return total(
        row_mean(jnp.abs(r - g), n)  # maps of bfloat16 are read as they are, and summed in float32
        for maps in zip(real, generated)
        for r, g in zip(*maps)
    )
