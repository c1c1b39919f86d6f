"""The forms of the model: the same losses and gradients, whatever the platform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.parity.cases import ONE_DEVICE, QUICK_COMPILATION, batch, smallest
from tests.runs import few_layers
from vits_jax.config import Config
from vits_jax.model.forms import FORMS, forms, forms_for
from vits_jax.model.networks import folded_networks, initial_parameters
from vits_jax.model.precision import Precision
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.training.losses import count_rows
from vits_jax.training.objective import Objective

pytestmark = pytest.mark.slow

FLOAT64 = Precision(jnp.float64, jnp.float64)


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    """Of every kind of layer one or two."""
    with few_layers(2, 1), jax.enable_x64(True):
        yield smallest()


@pytest.fixture(scope="module")
def lowered(config: Config) -> dict[str, Any]:
    """A whole pass in float64 in each platform's forms: its program, not compiled."""
    objective = Objective(config, folded_networks(config), FLOAT64)
    rows = batch(config)
    params = jax.eval_shape(lambda: initial_parameters(config, jax.random.key(0)))
    params = jax.tree.map(lambda x: x.update(dtype=jnp.float64), params)

    def of(platform: str) -> Any:
        def function(params: Any, batch: Any) -> Any:
            counted = count_rows(batch, config.audio.hop_length, np.float64, "data")
            keys = row_keys(0, 0, jnp.arange(len(batch["weight"]), dtype=jnp.int32))
            random = RowRandomness(keys, dropout=True)
            with forms_for(platform):
                return objective.gradients(params, batch, counted, random)

        sharded = jax.shard_map(
            function, mesh=ONE_DEVICE, in_specs=(P(), P()), out_specs=P(), check_vma=False
        )
        return jax.jit(sharded).lower(params, rows)

    return {platform: of(platform) for platform in FORMS}


@pytest.fixture(scope="module")
def arguments(config: Config) -> tuple[Any, Any]:
    """Parameters away from Piper's initial zeros, and a batch."""
    random = np.random.default_rng(0)
    params = jax.eval_shape(lambda: initial_parameters(config, jax.random.key(0)))

    def some(path: Any, x: Any) -> np.ndarray:
        middle = 1.0 if path[-1].key.endswith(("gamma", "weight_g")) else 0.0
        return random.normal(middle, 0.1, x.shape)

    return jax.tree_util.tree_map_with_path(some, params), batch(config)


@pytest.fixture(scope="module")
def expected(lowered: dict[str, Any], arguments: tuple[Any, Any]) -> Any:
    return lowered["cpu"].compile(QUICK_COMPILATION)(*arguments)


@pytest.mark.parametrize("platform", sorted(set(FORMS) - {"cpu"}))
def test_a_platforms_forms_are_the_processors(
    platform: str, lowered: dict[str, Any], arguments: tuple[Any, Any], expected: Any
) -> None:
    ours = lowered[platform].compile(QUICK_COMPILATION)(*arguments)
    got, wanted = (jax.tree_util.tree_leaves_with_path(tree) for tree in (ours, expected))
    for (path, one), (_, other) in zip(got, wanted, strict=True):
        # The true gradient of a key's bias is zero: softmax does not see it.
        scale = 1.0 if "conv_k.bias" in str(path) else np.abs(other).max()
        assert scale > 0, path
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9 * scale, err_msg=str(path))


def test_forms_are_those_of_the_platform_that_is_traced_for() -> None:
    assert forms() == FORMS["cpu"]
    with forms_for("tpu"):
        assert forms() == FORMS["tpu"]
    assert forms() == FORMS["cpu"]
