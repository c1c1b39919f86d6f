"""An evaluator: how the gains of weight normalisation are spread, part by part."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from vits_jax.config import Config
from vits_jax.state import Position, TrainState
from vits_jax.training.evaluation import Evaluation, Histogram, period
from vits_jax.training.mesh import local
from vits_jax.training.stopping import Stop

_GAIN = ".weight_g"


class Gains:
    """Of every part of both networks (``dec``, ``flow``, ``discriminators.0``, …).

    Attributes:
        every: epochs between two evaluations.
    """

    def __init__(self, config: Config):
        self.every = period(config.run)

    def ahead(self, state: TrainState) -> None:
        """Nothing is compiled."""

    def __call__(self, state: TrainState, position: Position, stop: Stop) -> Evaluation:
        """Histograms, under ``gains/``."""
        return Evaluation(shown=self._show(state))

    def _show(self, state: TrainState) -> Iterator[Histogram]:
        gains: dict[str, list[jax.Array]] = {}
        for parameters in state.params.values():
            for name, array in parameters.items():
                if name.endswith(_GAIN):
                    first, second, *_ = name.split(".")
                    part = f"{first}.{second}" if first == "discriminators" else first
                    gains.setdefault(part, []).append(array)
        for part, arrays in gains.items():
            values = [np.ravel(array) for array in jax.device_get(local(arrays))]
            yield Histogram(f"gains/{part}", np.concatenate(values))
