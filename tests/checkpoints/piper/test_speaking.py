"""A checkpoint that travelled speaks as it did before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vits_jax
from tests.checkpoints.piper.ckpts import SEVERAL, ckpt, write
from tests.parity import oracle
from tests.parity.comparing import assert_close
from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.checkpoints.warm_start import from_single_speaker, hears_speaker
from vits_jax.model.networks import parameter_shapes
from vits_jax.voice import Voice

IDS = [1, 0, 7, 0, 12, 0, 5, 0, 2]


def say(voice: Voice, speaker: int | None = None) -> np.ndarray:
    return voice.synthesize(IDS, speaker, noise_scale=0.0, noise_w=0.0)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `SEVERAL`, of one speaker."""
    config = SEVERAL.replaced({"num_speakers": 1, "gin_channels": 0})
    return write(ckpt(config, steps=1), tmp_path_factory.mktemp("single") / "voice.ckpt")


@pytest.fixture(scope="module")
def one_voice(single: Path) -> Voice:
    return vits_jax.load(single)


def test_a_ckpt_speaks_as_in_piper(single: Path, one_voice: Voice) -> None:
    config = one_voice.config
    network = oracle.generator(config.model, config.audio)
    state = torch.load(single, weights_only=False)["state_dict"]  # our own file, with its paths
    own = {name[8:]: tensor for name, tensor in state.items() if name.startswith("model_g.")}
    network.load_state_dict(own, strict=True)
    with torch.no_grad():
        theirs = network.infer(
            torch.tensor([IDS]), torch.tensor([len(IDS)]), noise_scale=0.0, noise_scale_w=0.0
        )[0]
    assert_close(say(one_voice), theirs[0, 0].numpy(), 1e-4)


def test_a_converted_model_with_silent_speakers_speaks_as_the_single_one(
    single: Path, one_voice: Voice, tmp_path: Path
) -> None:
    """Its speaker layers at zero, weights and biases: what is left is the single speaker."""
    several = ckpt(SEVERAL, steps=1)
    source = open_checkpoint(single)
    transfer = from_single_speaker(source, parameter_shapes(SEVERAL))
    theirs = torch.load(single, weights_only=False)["state_dict"]
    for name, tensor in several["state_dict"].items():
        if name in transfer.taken:
            several["state_dict"][name] = theirs[name]
        elif not name.endswith("weight_v"):  # the direction: its length is zero
            several["state_dict"][name] = torch.zeros_like(tensor)
        assert (name in transfer.taken) != (name[:8] == "model_g." and hears_speaker(name[8:]))
    voice = vits_jax.load(write(several, tmp_path / "several.ckpt"))
    assert_close(say(voice, 2), say(one_voice), 1e-5)
