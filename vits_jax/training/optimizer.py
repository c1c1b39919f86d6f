"""AdamW as PyTorch defines it (Loshchilov & Hutter 2019), on flat dictionaries of parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from vits_jax.model.parameters import Parameters
from vits_jax.state import OptimizerState


def clip(gradients: Parameters, norm: jax.Array, most: float, algorithm: str) -> Parameters:
    """Gradients as PyTorch clips them (Pascanu et al. 2013), ``{name: array}``.

    Args:
        gradients: of one network.
        norm: theirs, ``[]``.
        most: what is left of the norm, or of each number.
        algorithm: ``"norm"`` or ``"value"``.
    """
    if algorithm == "value":
        return jax.tree.map(lambda g: jnp.clip(g, -most, most), gradients)
    scale = jnp.minimum(most / (norm + 1e-6), 1.0)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients)


def update(
    parameters: Parameters,
    gradients: Parameters,
    state: OptimizerState,
    *,
    learning_rate: jax.Array,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[Parameters, OptimizerState]:
    """One step. Every tensor decays, biases and norms too, as in Piper."""
    adam = optax.scale_by_adam(*betas, eps=eps)
    moments = optax.ScaleByAdamState(**state)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the int32 count
        directions, moments = adam.update(gradients, moments)

    def step(p: jax.Array, direction: jax.Array) -> jax.Array:
        return p - learning_rate.astype(p.dtype) * (direction + weight_decay * p)

    return jax.tree.map(step, parameters, directions), moments._asdict()
