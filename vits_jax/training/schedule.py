"""When a run ends, and how fast it learns meanwhile."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vits_jax.config import Config, RunConfig
from vits_jax.state import Position
from vits_jax.training.parts import rates_of

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


def learning_rates(config: Config, epochs: int) -> dict[str, Any]:
    """Both networks' rates after so many epochs, of which each decays them once.

    And ``parts``, factors of them by part, where parts have their own (``--part-rates``).
    """
    o = config.optimizer
    rates = {
        "learning_rate": o.learning_rate * o.lr_decay**epochs,
        "learning_rate_d": o.learning_rate_d * o.lr_decay_d**epochs,
    }
    of_networks = {name: np.float32(rate) for name, rate in rates.items()}
    of_parts = {part: np.float32(factor) for part, factor in rates_of(config).items()}
    return {**of_networks, **({"parts": of_parts} if of_parts else {})}
