"""One pair of networks per case, shared by the tests of a session."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from tests.parity import oracle
from tests.parity.cases import CASES, batch, to_jax
from vits_jax.config import Config
from vits_jax.model.discriminator import MultiPeriodDiscriminator
from vits_jax.model.networks import abstract_networks
from vits_jax.model.parameters import bind
from vits_jax.model.synthesizer import Synthesizer


@dataclass(frozen=True)
class Pair:
    """The same weights on both sides, and a batch."""

    config: Config
    theirs_g: oracle.models.SynthesizerTrn
    theirs_d: oracle.models.MultiPeriodDiscriminator
    ours_g: Synthesizer
    ours_d: MultiPeriodDiscriminator
    batch: dict[str, np.ndarray]


def fresh_oracle(
    config: Config,
) -> tuple[oracle.models.SynthesizerTrn, oracle.models.MultiPeriodDiscriminator]:
    """The oracle's networks, every time at the same random weights."""
    network_g = oracle.generator(config.model, config.audio)
    network_d = oracle.discriminator(config.model.discriminator_width)
    # Gains at which signals neither die out nor saturate on the way through.
    return oracle.randomize(network_g, 1, gain=1.5), oracle.randomize(network_d, 2, gain=3.0)


@functools.cache
def make_pair(name: str) -> Pair:
    config = CASES[name]
    theirs_g, theirs_d = fresh_oracle(config)
    networks = abstract_networks(config)
    ours_g = bind(networks.generator, to_jax(oracle.flat(theirs_g)))
    ours_d = bind(networks.discriminator, to_jax(oracle.flat(theirs_d)))
    return Pair(config, theirs_g, theirs_d, ours_g, ours_d, batch(config))


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Every case in turn; do not change the networks (copy them first)."""
    return make_pair(request.param)


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 on both sides for the length of a test."""
    with jax.enable_x64(True), oracle.float64():
        yield
