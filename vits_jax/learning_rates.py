"""Learning rates of both networks, at any place of a run."""

from __future__ import annotations

import math

from vits_jax.config import Config, OptimizerConfig


def decayed(optimizer: OptimizerConfig, epochs: int) -> tuple[float, float]:
    """Of generator and discriminators after so many epochs, of which each decays them once.

    ``--lr-schedule exponential`` alone does; what goes by steps is left out.
    """
    o = optimizer
    if o.lr_schedule != "exponential":
        return o.learning_rate, o.learning_rate_d
    return o.learning_rate * o.lr_decay**epochs, o.learning_rate_d * o.lr_decay_d**epochs


def learning_rates(config: Config, epochs: int, step: int) -> tuple[float, float]:
    """Of generator and discriminators, in the step after `step` others.

    Args:
        config: of the run.
        epochs: that decay them (`decayed`).
        step: updates done.
    """
    rate, rate_d = decayed(config.optimizer, epochs)
    factor = risen(step, config.optimizer.warmup_steps)
    if config.optimizer.lr_schedule == "cosine":  # Loshchilov & Hutter 2017, without restarts
        done = min(1.0, step / config.run.max_steps)
        factor *= 0.5 * (1 + math.cos(math.pi * done))
    return rate * factor, rate_d * factor


def risen(step: int, steps: int) -> float:
    """What rises to 1 in so many steps; the first of them is not lost on a zero."""
    return min(1.0, (step + 1) / steps) if steps else 1.0
