"""Parts of a model learn at rates of their own, or not at all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.parity.cases import ONE_DEVICE, QUICK_COMPILATION, batch, smallest
from tests.runs import REAL, few_layers, flags, leaves, small, write_dataset
from vits_jax.commands.train import main
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.networks import (
    DISCRIMINATOR,
    GENERATOR,
    folded_networks,
    initial_parameters,
    parameter_shapes,
)
from vits_jax.model.parameters import Parameters
from vits_jax.model.parts import (
    DISCRIMINATORS,
    PARTS,
    check_frozen,
    frozen,
    parts_by_tensor,
    rates_of,
)
from vits_jax.model.precision import Precision
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.state import create_state
from vits_jax.training.loop import train
from vits_jax.training.losses import count_rows
from vits_jax.training.objective import Objective
from vits_jax.training.prepared import of_dataset

FLOAT64 = Precision(jnp.float64, jnp.float64)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("parts") / "data", speakers=2)


def test_the_parts_are_the_whole_model(dataset: Path, tmp_path: Path) -> None:
    config = of_dataset(small(dataset, tmp_path, part_rates=",".join(f"{p}=1" for p in PARTS)))
    found = parts_by_tensor(parameter_shapes(config), rates_of(config))
    for network, shapes in parameter_shapes(config).items():
        assert found[network].keys() == shapes.keys()
        assert (set(found[network].values()) == {DISCRIMINATORS}) == (network != GENERATOR)


def test_patterns_of_tensors_the_last_wins(dataset: Path, tmp_path: Path) -> None:
    config = of_dataset(small(dataset, tmp_path, part_rates="dec=0,dec.ups.*=0.5"))
    found = parts_by_tensor(parameter_shapes(config), rates_of(config))[GENERATOR]
    ups = {name for name in found if name.startswith("dec.ups.")}
    assert ups and {name for name, part in found.items() if part == "dec.ups.*"} == ups
    assert {part for name, part in found.items() if name not in ups} == {"dec"}


def test_no_such_part(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--part-rates enq_p: this model has no such part.*enc_p"):
        train(small(dataset, tmp_path / "run", part_rates="enq_p=0", max_steps=1))
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize("words", ["dec", "dec=", "dec=-1", "=2", "dec=fast", "dec=inf"])
def test_what_is_no_rate(dataset: Path, tmp_path: Path, words: str, capsys) -> None:
    assert main(flags(dataset, tmp_path / "run", part_rates=words)) == 2
    assert "PART=FACTOR, such as dec=0.1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_part_stays_as_it_is(dataset: Path, tmp_path: Path, caplog) -> None:
    """The real step: bit for bit, while all others move."""
    caplog.set_level(logging.INFO, "vits_jax")
    kept = ("enc_p.", "dp.")
    more = {"part_rates": "enc_p=0,dp=0,discriminators=0.5", "max_steps": 2, **REAL}
    config = of_dataset(small(dataset, tmp_path / "run", **more))
    train(config)
    after = leaves(tmp_path / "run")
    before = jax.device_get(create_state(config, jax.random.key(config.run.seed)).params)
    for network, parameters in before.items():
        for name, array in parameters.items():
            now = after[f"['params']['{network}']['{name}']"]
            same = now.tobytes() == np.asarray(array).tobytes()
            assert same == (network == GENERATOR and name.startswith(kept)), name
    assert "enc_p: stays as it is" in caplog.text
    assert "discriminators: learning rate x 0.5" in caplog.text


@pytest.mark.slow
def test_frozen_parts_have_no_moments_and_can_be_let_go(dataset: Path, tmp_path: Path) -> None:
    """Through a stop: bit for bit the same, nothing kept for them; then all of it learns."""
    freeze = "enc_p,dp,dec.ups.*,discriminators"
    # Seventeen epochs in all: none is validated, and the end alone is saved.
    more = {"freeze": freeze, "check_val_every_n_epoch": 1000, "checkpoint_minutes": 60, **REAL}
    train(small(dataset, tmp_path / "run", max_steps=2, **more))
    config = of_dataset(small(dataset, tmp_path / "run", max_steps=50, **more))
    train(config)
    before = jax.device_get(create_state(config, jax.random.key(config.run.seed)).params)
    after, held = leaves(tmp_path / "run"), frozen(config)
    assert held[GENERATOR] and held[DISCRIMINATOR] == before[DISCRIMINATOR].keys()
    for network, parameters in before.items():
        for name, array in parameters.items():
            now = after[f"['params']['{network}']['{name}']"]
            assert (now.tobytes() == np.asarray(array).tobytes()) == (name in held[network]), name
            for moment in ("mu", "nu"):
                there = f"['optimizer']['{network}']['{moment}']['{name}']" in after
                assert there != (name in held[network]), name

    train(small(dataset, tmp_path / "run", max_steps=51, **more | {"freeze": ""}))
    freed = leaves(tmp_path / "run")
    for network, parameters in before.items():
        for name in parameters:
            key = f"['{network}']['{name}']"
            assert freed[f"['params']{key}"].tobytes() != after[f"['params']{key}"].tobytes(), name
    train(small(dataset, tmp_path / "run", max_steps=52, **more))  # and held again
    assert sum("['mu']" in key for key in leaves(tmp_path / "run")) < sum(
        "['mu']" in key for key in freed
    )


@pytest.mark.slow
def test_a_frozen_part_changes_nothing_for_the_others() -> None:
    """Gradients of what learns are those of a model where all does."""
    random = np.random.default_rng(0)
    with few_layers(2, 1), jax.enable_x64(True):
        config = smallest()
        params = jax.eval_shape(lambda: initial_parameters(config, jax.random.key(0)))
        params = jax.tree.map(lambda x: random.normal(0.3, 0.1, x.shape), params)

        def gradients(config: Config) -> dict[str, Parameters]:
            objective = Objective(config, folded_networks(config), FLOAT64)

            def function(params: Any, batch: Any) -> Any:
                counted = count_rows(batch, config.audio.hop_length, np.float64, "data")
                keys = row_keys(0, 0, jnp.arange(len(batch["weight"]), dtype=jnp.int32))
                drawn = RowRandomness(keys, dropout=True)
                return objective.gradients(params, batch, counted, drawn)[0]

            sharded = jax.shard_map(
                function, mesh=ONE_DEVICE, in_specs=(P(), P()), out_specs=P(), check_vma=False
            )
            lowered = jax.jit(sharded).lower(params, batch(config))
            return lowered.compile(QUICK_COMPILATION)(params, batch(config))

        whole = gradients(config)
        for freeze in ("enc_p,dp,dec.ups.*", "flow,enc_q,discriminators,dec.*weight_g"):
            some = config.replaced({"freeze": tuple(freeze.split(","))})
            check_frozen(some)
            found, held = gradients(some), frozen(some)
            for network, own in whole.items():
                assert found[network].keys() == own.keys() - held[network]
                for name, g in found[network].items():
                    np.testing.assert_allclose(g, own[name], rtol=1e-8, atol=1e-12, err_msg=name)


def test_all_of_the_generator_frozen(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="that is all of the generator"):
        train(small(dataset, tmp_path / "run", freeze="enc_p,enc_q,flow,dp,dec,emb_g"))
