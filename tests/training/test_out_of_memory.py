"""A run whose program needs more memory than there is: one line, exit code 1."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from tests.runs import flags, stand_in, write_dataset
from vits_jax.commands.train import main
from vits_jax.config import Config
from vits_jax.state import TrainState
from vits_jax.training import prepared, start, validation

TERABYTES = (10**7, 10**6)  # 40 TB in float32


def step(config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    return jax.jit(lambda *arguments: (arguments, jnp.ones(TERABYTES)))


def state(config: Config, key: jax.Array) -> TrainState:
    return TrainState(jnp.ones(TERABYTES), {})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("memory") / "data")


@pytest.mark.parametrize(
    ("room", "name", "exhausting", "what"),
    [
        (prepared, "make_train_step", step, r"training step for 4 x \d+ x \d+ \(rows x .*\)"),
        (validation, "make_eval_step", step, r"validation step for 4 x \d+ x \d+ \(rows x .*\)"),
        (start, "create_state", state, "state of model and optimizers"),
    ],
)
def test_one_line(dataset: Path, tmp_path: Path, monkeypatch, capsys, room, name, exhausting, what):
    stand_in(monkeypatch)
    monkeypatch.setattr(room, name, exhausting)
    argv = flags(dataset, tmp_path / "run", max_epochs=1)
    assert main(argv) == 1
    numbers = r"it asks for 40000\.0 GB, the device \(cpu\) has \d+\.\d GB: "
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"failed: out of memory in the {what}: {numbers}", last)
