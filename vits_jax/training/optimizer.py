"""AdamW as PyTorch defines it (Loshchilov & Hutter 2019), on flat dictionaries of parameters."""

from __future__ import annotations

import jax
import optax

from vits_jax.model.parameters import Parameters
from vits_jax.state import OptimizerState


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
