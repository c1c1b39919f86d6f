"""AdamW as PyTorch defines it (Loshchilov & Hutter 2019), on flat dictionaries of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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
    apply: jax.Array,
    factors: Parameters | None = None,
    anchors: Parameters | None = None,
    strength: float | None = None,
    held: Mapping[str, np.ndarray] | None = None,
) -> tuple[Parameters, OptimizerState]:
    """One step, or none. Every tensor decays, biases and norms too, as in Piper.

    Args:
        parameters: of one network, ``{name: array}``.
        gradients: to them.
        state: their moments and ``count``, as `optax.scale_by_adam` keeps them.
        learning_rate: ``[]``.
        betas, eps, weight_decay: AdamW's.
        apply: bool ``[]``; where it is false, gradients are not looked at and nothing changes.
        factors: of the learning rate, ``{name: []}``; of others it is 1. A tensor of factor 0
            keeps every bit; its moments move on.
        anchors: of some tensors: where they began. Instead of decaying to 0 they are pulled back
            there, decoupled from the gradients as AdamW's decay is (Li et al. 2018):
            ``p -= learning_rate * strength * (p - anchor)``.
        strength: of that.
        held: of some tensors, what keeps every bit, bool, of shapes that broadcast; its
            gradients are not looked at.
    """
    dtype = next(iter(parameters.values())).dtype
    count = state["count"] + apply.astype(state["count"].dtype)
    rate = learning_rate.astype(dtype)
    scalars = _scalars(count.astype(dtype), rate, betas, weight_decay, apply, strength)
    new: dict[str, Parameters] = {"params": {}, "mu": {}, "nu": {}}
    for name, p in parameters.items():
        # As no step, a gradient that is not finite must not even be multiplied by zero.
        g = jnp.where(scalars.apply > 0, gradients[name], 0)
        fixed = (held or {}).get(name)
        g = g if fixed is None else jnp.where(fixed, 0, g)
        mu = scalars.keep_mu * state["mu"][name] + scalars.take_mu * g
        nu = scalars.keep_nu * state["nu"][name] + scalars.take_nu * (g * g)
        direction = mu / (jnp.sqrt(nu) * scalars.scale_nu + eps)
        change = scalars.rate * direction + _pull(scalars, p, (anchors or {}).get(name))
        factor = (factors or {}).get(name)
        moved = p - change if factor is None else _part(p, change, factor)
        new["params"][name] = moved if fixed is None else jnp.where(fixed, p, moved)
        new["mu"][name], new["nu"][name] = mu, nu
    return new["params"], {"count": count, "mu": new["mu"], "nu": new["nu"]}


def _pull(scalars: _Scalars, p: jax.Array, anchor: jax.Array | None) -> jax.Array:
    """What decay takes of it, or brings it nearer to where it began."""
    if anchor is None or scalars.pull is None:
        return scalars.decay * p
    return scalars.pull * (p - anchor)


def _part(p: jax.Array, change: jax.Array, factor: jax.Array) -> jax.Array:
    factor = factor.astype(p.dtype)
    return jnp.where(factor > 0, p - factor * change, p)  # which a zero's sign outlives, too


def averaged(
    averages: Parameters, parameters: Parameters, decay: float, *, apply: jax.Array
) -> Parameters:
    """One step of a running average (Polyak & Juditsky 1992), exponentially weighted, or none.

    ``decay * average + (1 - decay) * parameter``, written as what an average moves by: in
    float32 the two factors do not add up to 1, and what an average rests at would be off by up
    to their error over ``1 - decay``, 1.7e-4 of it at 0.9999 (docs/log.md).

    Args:
        averages: of one network, ``{name: array}``.
        parameters: of which they are, updated.
        decay: what stays of an average.
        apply: bool ``[]``; where it is false, nothing changes.
    """
    return {
        name: jnp.where(apply, average + (1 - decay) * (parameters[name] - average), average)
        for name, average in averages.items()
    }


class _Scalars(NamedTuple):
    """Of one step, each ``[]``, the same for all tensors."""

    apply: jax.Array  # 1, or 0 of a step that is none
    keep_mu: jax.Array
    take_mu: jax.Array
    keep_nu: jax.Array
    take_nu: jax.Array
    scale_nu: jax.Array  # undoes that the root of the second moment began at zero
    rate: jax.Array  # undoes the same of the first moment
    decay: jax.Array
    pull: jax.Array | None = None  # to anchors, where there are some


def _scalars(
    count: jax.Array,
    learning_rate: jax.Array,
    betas: tuple[float, float],
    weight_decay: float,
    apply: jax.Array,
    strength: float | None,
) -> _Scalars:
    """Those of step `count`; if it is not to be applied, such that no number changes."""

    def of(step: jax.Array | float, none: float) -> jax.Array:
        return jnp.where(apply, step, none).astype(count.dtype)

    b1, b2 = betas
    values = [
        of(1.0, 0.0),
        of(b1, 1.0),
        of(1 - b1, 0.0),
        of(b2, 1.0),
        of(1 - b2, 0.0),
        of(lax.rsqrt(1 - b2**count), 1.0),
        of(learning_rate / (1 - b1**count), 0.0),
        of(learning_rate * weight_decay, 0.0),
    ]
    if strength is not None:
        values.append(of(learning_rate * strength, 0.0))
    # Behind a barrier, or XLA computes them again for each of the tensors; and on a GPU it would
    # then not join the updates of several tensors to one kernel (docs/performance.md).
    return _Scalars(*lax.optimization_barrier(jnp.stack(values)))
