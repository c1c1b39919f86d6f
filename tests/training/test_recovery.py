"""A voice that was published, taken up again: what it lacks learns first."""

from __future__ import annotations

import functools
import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.runs import REAL, assert_equal, leaves, small, write_dataset
from vits_jax.checkpoints.source import UNHEARD, open_checkpoint
from vits_jax.checkpoints.store import DIRECTORY
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.config import Config
from vits_jax.data.batching.planning import Planner
from vits_jax.data.manifest import load_dataset
from vits_jax.data.split import split
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.state import create_state
from vits_jax.training import loop
from vits_jax.training.fitting import FINDING, SAYING, fitted
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

    def at(step: int) -> tuple[float, float]:
        own = factors(config, step)
        assert own["dp.post_*"] == own["dp.flows.1.*"] == 1
        assert own["enc_p"] == own["dp"] and not {"dec", "flow", "enc_q"} & own.keys()
        return adversarial(config, step), own["enc_p"]

    assert at(0) == at(25) == (0, 0)
    assert at(55) == (pytest.approx(0.4), 0)
    assert at(100) == at(400) == (1, 0)
    assert at(600) == (1, 0.5)
    assert at(800) == at(1000) == (1, 1)


@pytest.mark.slow
def test_a_published_voice_recovers(
    dataset: Path,
    published: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Texts and durations stay while the rest learns; a stop changes nothing."""
    stages = {"finding": FINDING._replace(steps=25), "saying": SAYING._replace(steps=25)}
    monkeypatch.setattr(loop, "fitted", functools.partial(fitted, **stages))
    caplog.set_level(logging.INFO, "vits_jax")
    voice = open_checkpoint(published)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    theirs = voice.parameters(voice.shapes, sharding)[GENERATOR]
    more = {"warmstart_ckpt": published, "recover_steps": 1, "checkpoint_steps": 1}
    more |= {"keep_newest": -1, "check_val_every_n_epoch": 1000, **REAL}
    train(small(dataset, tmp_path / "run", max_steps=2, **more))
    assert "the checkpoint lacks the posterior encoder and discriminators" in caplog.text
    assert "fitting, step 25 of 25: kl" in caplog.text
    second = leaves(tmp_path / "run")
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / "run" / DIRECTORY / step)
    caplog.clear()
    train(small(dataset, tmp_path / "run", max_steps=2, **more))
    assert "fitting" not in caplog.text  # it goes on after that
    assert_equal(leaves(tmp_path / "run"), second)
    train(small(dataset, tmp_path / "run", max_steps=6, **more))

    def moved(step: int) -> set[str]:
        found = open_checkpoint(tmp_path / "run" / DIRECTORY / str(step))
        now = found.parameters(voice.shapes, sharding)[GENERATOR]
        return {
            name.partition(".")[0]
            for name, p in theirs.items()
            if np.asarray(now[name]).tobytes() != np.asarray(p).tobytes()
        }

    assert [moved(step) for step in (1, 2, 5)] == [{"dec", "flow"}] * 3
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
    assert "timing the recordings" in caplog.text and f"of {SAYING.steps}:" not in caplog.text
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
def test_what_is_missing_is_fitted_and_the_voice_to_the_recordings(dataset: Path, caplog) -> None:
    """The encoder finds what the voice said; then the recordings are said, by what may learn."""
    caplog.set_level(logging.INFO, "vits_jax")
    config = of_dataset(small(dataset, "run", freeze="flow", part_rates="dec.ups.*=0,dp=0"))
    utterances = load_dataset(
        dataset, hop_length=config.audio.hop_length, min_samples=config.audio.min_samples
    )
    parts = split(utterances.keys, 0.1, 2)
    plan = Planner(config, utterances, parts, 1).new()
    params = create_state(config, jax.random.key(1)).params
    halves = {name for name in params[GENERATOR] if name.startswith(UNHEARD)}
    of_run = (utterances, plan, jax.local_devices()[0])
    stages = {"finding": FINDING._replace(steps=120), "saying": SAYING._replace(steps=75)}
    after = fitted(config, params, halves, *of_run, **stages)
    says = {name for name in params[GENERATOR] if name.startswith(("dec.", "enc_q."))}
    says -= {name for name in params[GENERATOR] if name.startswith("dec.ups.")}
    for network, own in params.items():
        for name, array in own.items():
            same = np.asarray(after[network][name]).tobytes() == np.asarray(array).tobytes()
            may_learn = network == GENERATOR and name in halves | says
            assert same or may_learn, name
    assert all(np.any(after[GENERATOR][n] != params[GENERATOR][n]) for n in says), "it all learns"
    # What is missing is found whatever its rate in training.
    assert any(np.any(after[GENERATOR][n] != params[GENERATOR][n]) for n in halves - says)
    told = [r.args for r in caplog.records if r.msg.startswith("fitting, step")]
    assert [args[:2] for args in told] == [
        *((25, 120), (50, 120), (75, 120), (100, 120), (120, 120)),
        *((25, 75), (50, 75), (75, 75)),
    ]
    losses = [dict(pair.split() for pair in args[2].split(", ")) for args in told]
    assert float(losses[4]["nll"]) < float(losses[0]["nll"])  # of what is spoken
    assert float(losses[4]["kl"]) < float(losses[0]["kl"])  # of recordings
    assert float(losses[7]["mel"]) < float(losses[5]["mel"])

    caplog.clear()
    kept = config.replaced({"keep_speakers": "100", "kept_speakers": (0,)})
    stages["finding"] = FINDING._replace(steps=1)
    found = fitted(kept, params, halves, *of_run, **stages)[GENERATOR]
    assert "to the recordings" not in caplog.text
    assert all(np.all(found[n] == params[GENERATOR][n]) for n in found.keys() - halves)

    stopped = fitted(config, params, halves, *of_run, lambda: True)
    assert stopped[GENERATOR].keys() == parameter_shapes(config)[GENERATOR].keys()
