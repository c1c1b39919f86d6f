"""``python -m tests.training.process KIND FLAGS``: one process of a run, where tests need several.

KIND is ``stand-in`` (`tests.runs.stand_in`), or ``float64`` (the real step, few layers).
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.runs import few_layers, stand_in
from vits_jax.commands.train import main
from vits_jax.model import precision
from vits_jax.state import TrainState, abstract_state, create_state
from vits_jax.training import start


def in_float64() -> None:
    """The next run computes so, and its state is so."""
    jax.config.update("jax_enable_x64", True)
    precision.POLICIES["32"] = precision.Precision(np.float64, np.float64)
    abstract_state.__defaults__ = (None, jnp.float64)

    def doubled(*arguments: Any) -> TrainState:
        def wide(x: Any) -> Any:
            return x.astype(np.float64) if x.dtype == np.float32 else x

        return jax.tree.map(wide, create_state(*arguments))

    start.create_state = doubled


if __name__ == "__main__":
    kind = sys.argv.pop(1)
    if kind == "stand-in":
        stand_in(pytest.MonkeyPatch())
        sys.exit(main())
    in_float64()
    with few_layers(2, 1):
        sys.exit(main())
