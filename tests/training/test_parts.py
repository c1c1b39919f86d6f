"""Parts of a model learn at rates of their own, or not at all."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.runs import REAL, flags, leaves, small, write_dataset
from vits_jax.commands.train import main
from vits_jax.errors import UserError
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.state import create_state
from vits_jax.training.loop import train
from vits_jax.training.parts import DISCRIMINATORS, PARTS, parts_by_tensor
from vits_jax.training.prepared import of_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("parts") / "data", speakers=2)


def test_the_parts_are_the_whole_model(dataset: Path, tmp_path: Path) -> None:
    config = of_dataset(small(dataset, tmp_path, part_rates=",".join(f"{p}=1" for p in PARTS)))
    found = parts_by_tensor(config)
    for network, shapes in parameter_shapes(config).items():
        assert found[network].keys() == shapes.keys()
        assert (set(found[network].values()) == {DISCRIMINATORS}) == (network != GENERATOR)


def test_patterns_of_tensors_the_last_wins(dataset: Path, tmp_path: Path) -> None:
    config = of_dataset(small(dataset, tmp_path, part_rates="dec=0,dec.ups.*=0.5"))
    found = parts_by_tensor(config)[GENERATOR]
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
