"""A voice that was published, taken up again: what it lacks learns first."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.runs import REAL, small, write_dataset
from vits_jax.checkpoints.source import UNHEARD, open_checkpoint
from vits_jax.checkpoints.store import DIRECTORY
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.config import Config
from vits_jax.data.batching.planning import Planner
from vits_jax.data.manifest import load_dataset
from vits_jax.data.split import split
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.state import create_state
from vits_jax.training.fitting import fitted
from vits_jax.training.loop import train
from vits_jax.training.prepared import of_dataset, prepare
from vits_jax.training.recovery import STEPS, adversarial, factors
from vits_jax.training.timeline import Timeline


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("recovery") / "data", speakers=1)


@pytest.fixture(scope="module")
def published(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As an ONNX voice is imported: a checkpoint of what speaking reads."""
    config = of_dataset(small(dataset, "run", **REAL))
    params = jax.device_get(create_state(config, jax.random.key(1)).params[GENERATOR])
    heard = {name: p for name, p in params.items() if not name.startswith(UNHEARD)}
    raw = load_dataset(dataset, hop_length=config.audio.hop_length, min_samples=1).config.raw
    path = tmp_path_factory.mktemp("voice") / "voice"
    onnx_voice.write(path, onnx_voice.Recovered(config, dict(raw), heard))
    return path


def test_when_each_part_is_let_go() -> None:
    config = Config().replaced({"recover_steps": 100})

    def at(step: int) -> tuple[float, float, float, float]:
        own = factors(config, step)
        assert own["dp.post_*"] == own["dp.flows.1.*"] == 1
        assert own["dec"] == own["flow"] and own["enc_p"] == own["dp"]
        return own["dec"], adversarial(config, step), own["enc_p"], step

    assert at(0) == (0, 0, 0, 0)
    assert at(24) == (0, 0, 0, 24)
    assert at(25) == (1, 0, 0, 25)
    assert at(50) == (1, 1, 0, 50)
    assert at(400) == (1, 1, 0, 400)
    assert at(600) == (1, 1, 0.5, 600)
    assert at(1000) == (1, 1, 1, 1000)


@pytest.mark.slow
def test_a_published_voice_recovers(dataset: Path, published: Path, tmp_path: Path, caplog) -> None:
    """What it has stays while the rest learns; a stop changes nothing."""
    caplog.set_level(logging.INFO, "vits_jax")
    voice = open_checkpoint(published)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    theirs = voice.parameters(voice.shapes, sharding)[GENERATOR]
    more = {"warmstart_ckpt": published, "recover_steps": 1, "checkpoint_steps": 1}
    more |= {"keep_newest": -1, **REAL}
    train(small(dataset, tmp_path / "run", max_steps=2, **more))
    assert "the checkpoint lacks the posterior encoder and discriminators" in caplog.text
    assert "fitting, step 150" in caplog.text
    caplog.clear()
    train(small(dataset, tmp_path / "run", max_steps=6, **more))
    assert "fitting" not in caplog.text  # it goes on after that

    def moved(step: int) -> set[str]:
        found = open_checkpoint(tmp_path / "run" / DIRECTORY / str(step))
        now = found.parameters(voice.shapes, sharding)[GENERATOR]
        return {
            name.partition(".")[0]
            for name, p in theirs.items()
            if np.asarray(now[name]).tobytes() != np.asarray(p).tobytes()
        }

    assert [moved(step) for step in (1, 2, 5)] == [set(), {"dec", "flow"}, {"dec", "flow"}]
    assert moved(6) == {"dec", "dp", "enc_p", "flow"}


def test_when_a_start_recovers(dataset: Path, published: Path, tmp_path: Path) -> None:
    """Where something is missing that a voice is published without, and nothing else."""

    def steps(**more: object) -> int | None:
        config = of_dataset(small(dataset, tmp_path / "none", **more))
        return prepare(config, None, None, Timeline()).config.optimizer.recover_steps

    assert steps() is steps(recover_steps=7) is None  # a run from nothing
    voice = {"warmstart_ckpt": published, **REAL}
    assert steps(**voice) == STEPS
    assert steps(**voice, recover_steps=7) == 7
    assert steps(**voice, recover="off") is steps(**voice, recover_steps=0) is None
    assert steps(**voice, reinit="dec") is None  # more is missing than voices lack


@pytest.mark.slow
def test_an_interrupted_fit_begins_again(dataset: Path, published: Path, tmp_path: Path, caplog):
    """It is nothing to go on from: no checkpoint says that it was done."""
    caplog.set_level(logging.INFO, "vits_jax")
    more = {"warmstart_ckpt": published, "max_time": "00:00:00:01", **REAL}
    outcome = train(small(dataset, tmp_path / "run", **more))
    assert (outcome.step, outcome.exit_code) == (0, 0)
    assert "fitting" in caplog.text and "fitting, step 150" not in caplog.text
    assert not list((tmp_path / "run" / DIRECTORY).glob("*"))


def test_a_posterior_encoder_that_is_there_is_not_fitted(dataset: Path, tmp_path: Path) -> None:
    """Where discriminators alone are missing, they alone are waited for."""
    config = of_dataset(small(dataset, tmp_path / "run"))
    params = jax.device_get(create_state(config, jax.random.key(1)).params[GENERATOR])
    raw = load_dataset(dataset, hop_length=config.audio.hop_length, min_samples=1).config.raw
    onnx_voice.write(tmp_path / "whole", onnx_voice.Recovered(config, dict(raw), params))
    more = {"warmstart_ckpt": tmp_path / "whole", "recover_steps": 7}
    found = prepare(of_dataset(small(dataset, tmp_path / "run", **more)), None, None, Timeline())
    assert found.config.optimizer.recover_steps == 7
    assert found.start.recovers(found.config)

    def fit(*_: object) -> None:
        raise AssertionError("there is nothing to fit")

    state = found.start.state(found.config, found.mesh, fit)
    for name, array in params.items():
        np.testing.assert_array_equal(state.params[GENERATOR][name], array, err_msg=name)


@pytest.mark.slow
def test_what_is_missing_is_fitted_to_what_is_there(dataset: Path, caplog) -> None:
    """The encoder finds what the voice said, and what recordings are expected to be."""
    caplog.set_level(logging.INFO, "vits_jax")
    config = of_dataset(small(dataset, "run"))
    utterances = load_dataset(
        dataset, hop_length=config.audio.hop_length, min_samples=config.audio.min_samples
    )
    parts = split(utterances.keys, 0.1, 2)
    plan = Planner(config, utterances, parts, 1).new()
    params = create_state(config, jax.random.key(1)).params
    halves = {name for name in params[GENERATOR] if name.startswith(UNHEARD)}
    of_run = (utterances, plan, jax.local_devices()[0])
    after = fitted(config, params, halves, *of_run, steps=120)
    for network, own in params.items():
        for name, array in own.items():
            same = np.asarray(after[network][name]).tobytes() == np.asarray(array).tobytes()
            may_learn = network == GENERATOR and name in halves
            assert same or may_learn, name
    told = [r.args for r in caplog.records if r.msg.startswith("fitting, step")]
    first, last = told[0], told[-1]
    assert (first[0], last[0]) == (25, 120)
    assert last[1] < first[1]  # the divergence of recordings
    assert last[3] < first[3]  # the likelihood of what is spoken

    stopped = fitted(config, params, halves, *of_run, lambda: True)
    assert stopped[GENERATOR].keys() == parameter_shapes(config)[GENERATOR].keys()
