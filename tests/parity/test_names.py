"""The parameter tree under Piper's names: equal to its `state_dict`, for every preset."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from tests.parity import oracle
from tests.parity.cases import CASES
from vits_jax.config import Config, read_yaml
from vits_jax.model.networks import abstract_networks
from vits_jax.model.parameters import flatten
from vits_jax.presets import preset_names, preset_path

PRESETS = ("x-low", "low", "medium", "high", "demo")


def compare(config: Config) -> None:
    networks = abstract_networks(config)
    theirs_g = oracle.generator(config.model, config.audio, device="meta")
    theirs_d = oracle.discriminator(config.model.discriminator_width, device="meta")
    for ours, theirs in zip(networks, (theirs_g, theirs_d), strict=True):
        shapes = {name: tuple(array.shape) for name, array in flatten(ours).items()}
        assert shapes == {name: tuple(t.shape) for name, t in theirs.state_dict().items()}


@pytest.mark.parametrize("speakers", [1, 4])
@pytest.mark.parametrize("preset", PRESETS)
def test_names_and_shapes_of_presets(preset: str, speakers: int) -> None:
    config = Config().updated(read_yaml(preset_path(preset)), preset)
    # One of several speakers or not: gin_channels follow, except where the preset sets them.
    gin_channels = config.model.gin_channels if speakers > 1 else 0
    model = dataclasses.replace(
        config.model, num_speakers=speakers, gin_channels=gin_channels
    )
    compare(dataclasses.replace(config, model=model))


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_of_small_models(name: str) -> None:
    compare(CASES[name])


def test_every_preset_is_looked_at() -> None:
    assert sorted(PRESETS) == preset_names()


def test_sizes_are_pipers() -> None:
    """The published numbers of parameters, in millions."""

    def millions(network: object) -> float:
        return sum(leaf.size for leaf in jax.tree.leaves(flatten(network))) / 1e6

    def of(preset: str) -> object:
        return abstract_networks(Config().updated(read_yaml(preset_path(preset)), preset))

    for preset, size in (("x-low", 7.1), ("medium", 23.7), ("high", 36.3)):
        assert millions(of(preset).generator) == pytest.approx(size, abs=0.05)
    assert millions(of("medium").discriminator) == pytest.approx(46.7, abs=0.05)
