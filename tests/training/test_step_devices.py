"""One device and eight give the same training step, fillers or none: float64, to 1e-9."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.layout import Format

from tests.parity.cases import batch, quickly, smallest
from tests.parity.comparing import assert_all_close, assert_close
from tests.runs import few_layers
from vits_jax.config import Config
from vits_jax.model.networks import GENERATOR
from vits_jax.model.precision import Precision
from vits_jax.state import TrainState, abstract_state, begin_averages
from vits_jax.training import mesh
from vits_jax.training.mesh import make_mesh, put_rows
from vits_jax.training.step import make_eval_step, make_train_step

pytestmark = pytest.mark.slow

BOUND = 1e-9
FLOAT64 = Precision(np.float64, np.float64)
# True gradient zero: softmax does not see a key's bias.
ZERO = {"conv_k.bias": 1e-12}


@pytest.fixture(scope="module", autouse=True)
def _x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    """Of every kind of layer one or two, where Piper has up to 16: it compiles in a third."""
    with few_layers(2, 1):
        yield smallest().replaced({"use_sdp": False})  # whose rows are as much on their own


def some_state(config: Config) -> TrainState:
    """Away from Piper's initial zeros, behind which every gradient is zero."""
    rng = np.random.default_rng(0)
    shapes = abstract_state(config, dtype=np.float64)
    state = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
    for parameters in state.params.values():
        for name, zeros in parameters.items():
            assert zeros.dtype == np.float64
            middle = 1.0 if name.endswith(("gamma", "weight_g")) else 0.0
            parameters[name] = rng.normal(middle, 0.1, zeros.shape)
    return state


def run(
    config: Config, state: TrainState, rows: dict[str, np.ndarray], devices: int
) -> tuple[TrainState, dict[str, Any]]:
    """State and metrics after one step."""
    over = make_mesh(devices, "cpu")
    rates = {"learning_rate": np.float64(2e-4), "learning_rate_d": np.float64(1e-4)}
    arguments = (state, put_rows(rows, over), rates)
    return jax.device_get(quickly(make_train_step(config, over, FLOAT64))(*arguments))


def same_losses(metrics: dict[str, Any], others: dict[str, Any]) -> None:
    assert metrics["skipped"] == others["skipped"] == 0
    for name in metrics.keys() - {"skipped"}:
        assert_close(others[name], metrics[name], BOUND, name)


def compare(
    one: tuple[TrainState, dict[str, Any]], eight: tuple[TrainState, dict[str, Any]]
) -> None:
    (state, metrics), (other_state, other_metrics) = one, eight
    assert metrics.keys() == other_metrics.keys()
    same_losses(metrics, other_metrics)
    for network in ("model_g", "model_d"):
        # From zero moments, the first moment is the gradient times 1 - beta.
        for moment in ("mu", "nu"):
            values = [s.optimizer[network][moment] for s in (other_state, state)]
            assert_all_close(*values, BOUND, ZERO)
        assert_all_close(other_state.params[network], state.params[network], BOUND)


FIVE = {"frames": (22, 30, 5, 17, 8), "phonemes": (9, 7, 3, 11, 1)}  # a segment has 8 frames


@pytest.fixture(scope="module")
def at_once(config: Config) -> tuple[TrainState, dict[str, Any]]:
    """Five rows on one device."""
    return run(config, some_state(config), batch(config, **FIVE), 1)


def eight(config: Config) -> dict[str, np.ndarray]:
    """The same rows, and three fillers."""
    rows = batch(config, **FIVE)
    rows = {name: np.concatenate([array, array[1:4]]) for name, array in rows.items()}
    return rows | {"weight": np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)}


def test_on_eight_devices(config: Config, at_once: tuple[TrainState, dict[str, Any]]) -> None:
    compare(at_once, run(config, some_state(config), eight(config), 8))


def test_weights_that_lie_as_their_gradients(
    config: Config, at_once: tuple[TrainState, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a TPU: the order of numbers in memory is no number."""
    monkeypatch.setattr(mesh, "BY_OUTPUT", {"cpu"})
    monkeypatch.setattr(mesh, "LANES", 16)
    state = some_state(config)
    held = mesh.formats(state, make_mesh(1, "cpu"))
    turned = [x for x in jax.tree.leaves(held) if isinstance(x, Format)]
    assert len(turned) > 30
    state = jax.device_put(state, held)
    new, metrics = run(config, state, batch(config, **FIVE), 1)
    compare(at_once, (new, metrics))


def test_validation_in_parts(config: Config) -> None:
    """The sums of the same rows: an update's rows do not fit into memory all at once."""
    rows, params = eight(config), some_state(config).params
    sums = []
    for parts in (1, 2):
        two, first = make_mesh(2, "cpu"), np.int32(3)
        evaluate = make_eval_step(config.replaced({"accumulate_grad_batches": parts}), two, FLOAT64)
        sums.append(quickly(evaluate)(params, put_rows(rows, two), first))
    assert sums[0]["weight"] == sums[1]["weight"] == 5
    for name, value in sums[0].items():
        assert_close(sums[1][name], value, BOUND, name)


def test_in_parts_and_clipped(config: Config, at_once: tuple[TrainState, dict[str, Any]]) -> None:
    """On each of two devices two rows, and then two more."""
    whole, metrics = at_once
    norms = {network: metrics[f"grad_norm_{network[-1]}"] for network in whole.params}
    most = 0.5 * float(min(norms.values()))
    config = config.replaced({"accumulate_grad_batches": 2, "gradient_clip_val": most})
    parts, of_parts = run(config, some_state(config), eight(config), 2)
    same_losses(metrics, of_parts)
    for network, norm in norms.items():
        scale = most / (norm + 1e-6)
        expected = {name: mu * scale for name, mu in whole.optimizer[network]["mu"].items()}
        assert_all_close(parts.optimizer[network]["mu"], expected, BOUND, ZERO)


def test_averages_of_the_weights(
    config: Config, at_once: tuple[TrainState, dict[str, Any]]
) -> None:
    """The formula, of the updated weights, on two devices; none where the update is skipped."""
    two, decay = make_mesh(2, "cpu"), 0.75
    step = quickly(make_train_step(config.replaced({"ema_decay": decay}), two, FLOAT64))
    rows = put_rows(eight(config), two)
    rates = {"learning_rate": np.float64(2e-4), "learning_rate_d": np.float64(1e-4)}
    state = begin_averages(some_state(config))
    expected = state.averages[GENERATOR]
    for _ in range(2):
        state, metrics = jax.device_get(step(state, rows, rates))
        assert metrics["skipped"] == 0
        new = state.params[GENERATOR]
        expected = {n: decay * a + (1 - decay) * new[n] for n, a in expected.items()}
        assert_all_close(state.averages[GENERATOR], expected, 1e-14)
    assert state.averages.keys() == {GENERATOR}
    name = "dec.conv_pre.bias"
    broken = state.params[GENERATOR] | {name: np.full_like(state.params[GENERATOR][name], np.nan)}
    before = state.replace(params=state.params | {GENERATOR: broken})
    after, metrics = jax.device_get(step(before, rows, rates))
    assert metrics["skipped"] == 1
    for name, average in state.averages[GENERATOR].items():
        np.testing.assert_array_equal(after.averages[GENERATOR][name], average, name)
