"""The parameter tree under Piper's names: equal to its `state_dict`, for every preset."""

from __future__ import annotations

import math

import pytest

from tests.parity import oracle
from tests.parity.cases import CASES
from vits_jax.config import Config
from vits_jax.model.networks import parameter_shapes
from vits_jax.presets import preset, preset_names

PRESETS = ("x-low", "low", "medium", "high", "high-44k", "high-48k", "demo")


def compare(config: Config) -> None:
    theirs_g = oracle.generator(config.model, config.audio, device="meta")
    theirs_d = oracle.discriminator(config.model.discriminator_width, device="meta")
    assert parameter_shapes(config) == {
        "model_g": {name: tuple(tensor.shape) for name, tensor in theirs_g.state_dict().items()},
        "model_d": {name: tuple(tensor.shape) for name, tensor in theirs_d.state_dict().items()},
    }


@pytest.mark.parametrize("speakers", [1, 4])
@pytest.mark.parametrize("name", PRESETS)
def test_names_and_shapes_of_presets(name: str, speakers: int) -> None:
    compare(preset(name).replaced({"num_speakers": speakers}))


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_of_small_models(name: str) -> None:
    compare(CASES[name])


def test_every_preset_is_looked_at() -> None:
    assert sorted(PRESETS) == preset_names()


def test_sizes_are_pipers() -> None:
    """The published numbers of parameters, in millions."""

    def millions(name: str, network: str) -> float:
        sizes = parameter_shapes(preset(name))[network].values()
        return sum(math.prod(shape) for shape in sizes) / 1e6

    for name, size in (("x-low", 7.1), ("medium", 23.7), ("high", 36.3)):
        assert millions(name, "model_g") == pytest.approx(size, abs=0.05)
    assert millions("medium", "model_d") == pytest.approx(46.7, abs=0.05)
