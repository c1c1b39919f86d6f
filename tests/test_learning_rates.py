"""Learning rates at any place of a run, and the weights that change with them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from vits_jax.config import Config
from vits_jax.config_checks import problems
from vits_jax.learning_rates import decayed, learning_rates
from vits_jax.training.schedule import rates


def _config(**more: object) -> Config:
    values = {"dataset_dir": "data", "batch_size": 4, "learning_rate": 1e-3} | more
    return Config().replaced(values)


def test_by_default_they_are_pipers() -> None:
    """One decay an epoch, and nothing that goes by steps; nothing more reaches the devices."""
    config = _config(lr_decay=0.5)
    assert learning_rates(config, 0, 7) == (1e-3, 2e-4)
    assert learning_rates(config, 2, 999) == (1e-3 / 4, 2e-4 * 0.999875**2)
    assert rates(config, 1, 3).keys() == {"learning_rate", "learning_rate_d"}


def test_warm_up_rises_for_both_networks() -> None:
    config = _config(warmup_steps=4, lr_decay=0.5)
    found = np.array([learning_rates(config, 0, step) for step in range(6)])
    np.testing.assert_allclose(found[:, 0], 1e-3 * np.array([0.25, 0.5, 0.75, 1, 1, 1]))
    np.testing.assert_allclose(found[:, 1], 2e-4 * np.array([0.25, 0.5, 0.75, 1, 1, 1]))
    np.testing.assert_allclose(learning_rates(config, 1, 0)[0], 1e-3 * 0.25 / 2)


def test_cosine_falls_to_zero_where_the_run_ends() -> None:
    config = _config(lr_schedule="cosine", max_steps=100, warmup_steps=2)
    assert learning_rates(config, 50, 0)[0] == 5e-4
    np.testing.assert_allclose(learning_rates(config, 50, 25)[0], 1e-3 * (0.5 + 0.5**1.5))
    np.testing.assert_allclose(learning_rates(config, 50, 50), (5e-4, 1e-4))
    np.testing.assert_allclose(learning_rates(config, 50, 100), (0, 0), atol=1e-12)
    assert decayed(config.optimizer, 50) == (1e-3, 2e-4)  # from where a run that goes on decays
    assert any("--max_steps with it" in p for p in problems(_config(lr_schedule="cosine")))


def test_constant_stays() -> None:
    assert learning_rates(_config(lr_schedule="constant"), 1000, 10**6) == (1e-3, 2e-4)


def test_the_divergences_weight_rises() -> None:
    config = _config(kl_annealing_steps=4)
    assert [float(rates(config, 0, step)["weights"]["kl"]) for step in (0, 1, 3, 4)] == [
        *(0.25, 0.5, 1, 1),
    ]
    assert "weights" not in rates(_config(), 0, 0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"lr_schedule": "linear"}, "--lr-schedule linear: expected one of exponential, constant"),
        ({"warmup_steps": -1}, "--warmup-steps -1: expected at least 0"),
        ({"kl_annealing_steps": -2}, "--kl-annealing-steps -2: expected at least 0"),
        ({"recover": "yes"}, "--recover yes: expected auto or off"),
        ({"recover_steps": -1}, "--recover-steps -1: expected at least 0"),
    ],
)
def test_what_cannot_be(more: dict[str, object], message: str) -> None:
    assert any(problem.startswith(message) for problem in problems(_config(**more)))


def test_rates_keep_their_shape_over_a_run() -> None:
    """Compiled once: whatever the step, the same scalars."""
    config = _config(recover_steps=8, kl_annealing_steps=4, part_rates=("dec=0.1",))
    trees = [rates(config, 0, step) for step in (0, 3, 8, 20)]
    assert len({jax.tree.structure(tree) for tree in trees}) == 1
    assert {type(leaf) for leaf in jax.tree.leaves(trees)} == {np.float32}
