"""When a run ends, and how fast it learns meanwhile."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from vits_jax.config import Config, RunConfig
from vits_jax.learning_rates import learning_rates, risen
from vits_jax.model.parts import rates_of
from vits_jax.state import Position
from vits_jax.training import recovery

Rates = dict[str, Any]

DEFAULT_MAX_EPOCHS = 1000  # Lightning's
OF_NETWORKS = ("learning_rate", "learning_rate_d")


def last_step(run: RunConfig, position: Position, per_epoch: int) -> float:
    """The step at which a run ends; infinity if neither epochs nor steps are limited.

    Args:
        position: where it starts.
        per_epoch: batches that it trains of each epoch.
    """
    max_epochs = run.max_epochs
    if run.fast_dev_run:
        max_epochs = position.epoch + 1
    elif max_epochs is None:
        max_epochs = DEFAULT_MAX_EPOCHS if run.max_steps < 0 else -1
    left = (max_epochs - position.epoch) * per_epoch - position.batch
    return min(
        math.inf if max_epochs < 0 else position.step + max(0, left),
        math.inf if run.max_steps < 0 else run.max_steps,
    )


def rates(config: Config, epochs: int, step: int) -> Rates:
    """What the step after `step` others goes by.

    Both networks' learning rates. Where parts have their own (``--part-rates``), ``parts``:
    factors of them, by part; while a voice recovers, ``recovery``: factors besides. Where some
    are not as they are always, ``weights``: factors of losses, by loss.

    Args:
        config: of the run.
        epochs: that decay the learning rates.
        step: updates done.
    """
    found: Rates = dict(zip(OF_NETWORKS, learning_rates(config, epochs, step)))
    if parts := rates_of(config):
        found["parts"] = parts
    weights = {}
    if steps := config.optimizer.kl_annealing_steps:
        weights["kl"] = risen(step, steps)
    if config.optimizer.recover_steps:
        found["recovery"] = recovery.factors(config, step)
        weights["adversarial"] = recovery.adversarial(config, step)
    if weights:
        found["weights"] = weights
    return jax.tree.map(np.float32, found)
