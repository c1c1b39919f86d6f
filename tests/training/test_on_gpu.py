"""A GPU's numbers beside the processor's: same weights, batch, noise and dropout.

Runs with ``VITS_JAX_TEST_PLATFORM=gpu``. The bounds are a GPU's own: it adds in another order, and
in TF32 and bfloat16 it keeps 10 and 7 bits of what it multiplies.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from tests.parity.cases import batch, smallest
from tests.runs import few_layers
from vits_jax.benchmarks.precision import distances, gradients
from vits_jax.model.networks import initial_parameters
from vits_jax.model.precision import POLICIES
from vits_jax.state import create_state
from vits_jax.training.mesh import formats, make_mesh, put_rows
from vits_jax.training.step import make_train_step

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cases() -> Any:
    with few_layers(3, 2):
        config = smallest().replaced({"n_layers": 2})
        params = jax.jit(lambda key: initial_parameters(config, key))(jax.random.key(0))
        yield config, jax.device_get(params), batch(config)


@pytest.mark.parametrize(
    ("precision", "loss", "gradient"),
    [("32", 1e-4, 1e-3), ("tf32", 1e-2, 0.1), ("bf16-mixed", 3e-2, 0.3)],
)
def test_losses_and_gradients(cases: Any, precision: str, loss: float, gradient: float) -> None:
    config, params, rows = cases
    on = [jax.devices(platform)[0] for platform in ("gpu", "cpu")]
    (ours, losses), (theirs, expected) = (
        gradients(config, POLICIES[name], device, params, rows)
        for name, device in zip((precision, "32"), on)
    )
    for name, value in expected.items():
        assert losses[name] == pytest.approx(value, rel=loss), name
    for part, distance in distances(ours, theirs).items():
        assert distance < gradient, part


@pytest.mark.parametrize("precision", list(POLICIES))
def test_a_step(cases: Any, precision: str) -> None:
    config, _, rows = cases
    config = config.replaced({"precision": precision})
    mesh = make_mesh(1, "gpu")
    state = jax.jit(lambda key: create_state(config, key))(jax.random.key(0))
    before = jax.device_get(state.params)
    rates = {"learning_rate": np.float32(2e-4), "learning_rate_d": np.float32(2e-4)}
    state = jax.device_put(state, formats(state, mesh))
    state, metrics = make_train_step(config, mesh)(state, put_rows(rows, mesh), rates)
    assert metrics["skipped"] == 0
    for network, parameters in jax.device_get(state.params).items():
        assert all(np.isfinite(array).all() for array in parameters.values())
        assert any(not np.array_equal(a, before[network][n]) for n, a in parameters.items())
