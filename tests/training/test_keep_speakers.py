"""Speakers join a voice, and those who were there before stay as they were."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.runs import REAL, assert_equal, flags, leaves, small, write_uneven
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.store import Metadata
from vits_jax.commands.train import main
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model import kept
from vits_jax.model.networks import GENERATOR
from vits_jax.state import Position, TrainState, abstract_state, create_state
from vits_jax.training import keeping, loop, optimizer
from vits_jax.training.loop import train
from vits_jax.training.prepared import of_dataset
from vits_jax.training.start import Start

TABLE = f"['params']['{GENERATOR}']['emb_g.weight']"
JOINED = ["new", "anna", "ben"]  # so that old rows are others than they were
STRENGTH = 500.0


# The optimizer


def test_an_anchor_is_l2_sp_and_what_is_held_keeps_every_bit() -> None:
    """AdamW of PyTorch without its decay, less the pull, step by step in float64."""
    random = np.random.default_rng(0)
    values = {name: random.normal(size=(4, 3)) for name in "abc"}
    anchor, rows = random.normal(size=(4, 3)), np.array([[True], [False], [True], [False]])
    rate, decay, strength, betas = 0.01, 0.1, 7.0, (0.8, 0.99)
    theirs = {name: torch.nn.Parameter(torch.tensor(v)) for name, v in values.items()}
    adamw = torch.optim.AdamW(
        [
            {"params": [theirs["a"]], "weight_decay": 0.0},
            {"params": [theirs["b"], theirs["c"]], "weight_decay": decay},
        ],
        *(rate, betas, 1e-9),
    )
    with jax.enable_x64(True):
        step = jax.jit(
            functools.partial(
                optimizer.update,
                betas=betas,
                eps=1e-9,
                weight_decay=decay,
                strength=strength,
                held={"b": rows},
            )
        )
        ours = {name: jnp.asarray(v) for name, v in values.items()}
        zeros = jax.tree.map(jnp.zeros_like, ours)
        state: Any = {"count": jnp.zeros((), jnp.int32), "mu": zeros, "nu": zeros}
        for _ in range(3):
            gradients = {name: random.normal(size=(4, 3)) for name in values}
            before = theirs["a"].detach().numpy().copy()
            for name, parameter in theirs.items():
                parameter.grad = torch.tensor(gradients[name])
            adamw.step()
            with torch.no_grad():
                theirs["a"] -= torch.tensor(rate * strength * (before - anchor))
            ours, state = step(
                ours,
                gradients,
                state,
                learning_rate=jnp.asarray(rate),
                apply=jnp.asarray(True),
                anchors={"a": anchor},
            )
        none, _ = step(
            ours,
            {name: np.full((4, 3), np.nan) for name in values},
            state,
            learning_rate=jnp.asarray(rate),
            apply=jnp.asarray(False),
            anchors={"a": anchor},
        )
    for name in "ac":
        np.testing.assert_allclose(ours[name], theirs[name].detach().numpy(), rtol=1e-12)
    free = ~rows[:, 0]
    np.testing.assert_allclose(ours["b"][free], theirs["b"].detach().numpy()[free], rtol=1e-12)
    assert np.asarray(ours["b"])[rows[:, 0]].tobytes() == values["b"][rows[:, 0]].tobytes()
    assert not np.any(np.asarray(state["mu"]["b"])[rows[:, 0]])
    for name in "abc":
        assert np.asarray(none[name]).tobytes() == np.asarray(ours[name]).tobytes()


# Where a run begins


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of somebody new alone; two others are named."""
    return write_uneven(tmp_path_factory.mktemp("joined") / "data", [14, 0, 0], JOINED)


def voice_of(directory: Path, names: list[str], **more: Any) -> Path:
    """A run directory with a checkpoint of a voice that nobody trained."""
    dataset = write_uneven(directory / "data", [7] * len(names), names)
    config = of_dataset(small(dataset, directory / "run", **more))
    state = create_state(config, jax.random.key(5))
    raw = json.loads((dataset / "config.json").read_text())
    checkpoints = Checkpoints(directory / "run", Keep())
    checkpoints.save(3, state.to_dict(), Metadata(config, Position(3), raw, {}))
    checkpoints.close()
    return directory / "run"


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return voice_of(tmp_path_factory.mktemp("voice"), ["anna", "ben"], **REAL)


class Begun(Exception):
    """A run has its first state, and goes no further."""


def begin(dataset: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    """The state that a run begins with, and its configuration."""
    make_state = Start.state

    def stop(start: Start, config: Any, mesh: Any, *rest: Any) -> TrainState:
        raise Begun(make_state(start, config, mesh, *rest), config)

    with monkeypatch.context() as patch:
        patch.setattr(Start, "state", stop)
        patch.setattr(loop, "compile_ahead", lambda *arguments: None)
        with pytest.raises(Begun) as begun:
            train(small(dataset, run_dir, **REAL, **more))
    return begun.value.args


@pytest.mark.slow
def test_what_is_kept(
    joined: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """By the names, from the warm start on: rows, anchors, what has moments."""
    caplog.set_level(logging.INFO, "vits_jax")
    more = {"warmstart_ckpt": voice, "keep_speakers": 100}
    state, config = begin(joined, tmp_path / "number", monkeypatch, **more)
    assert config.optimizer.kept_speakers == (1, 2) and config.optimizer.kept_fresh == ()
    assert "--keep-speakers 100: anna, ben: their rows stay as they are" in caplog.text
    old = leaves(voice)
    np.testing.assert_array_equal(state.params[GENERATOR]["emb_g.weight"][1:], old[TABLE])
    own = state.anchors[GENERATOR]
    assert own.keys() == state.params[GENERATOR].keys() - {kept.SPEAKERS}
    for name, anchor in own.items():
        np.testing.assert_array_equal(anchor, old[f"['params']['{GENERATOR}']['{name}']"])
    shapes = jax.tree.map(lambda x: x.shape, abstract_state(config).to_dict())
    assert shapes == jax.tree.map(lambda x: x.shape, state.to_dict())

    state, config = begin(
        joined, tmp_path / "hold", monkeypatch, **more | {"keep_speakers": "hold"}
    )
    assert not state.anchors
    assert {name: list(own["mu"]) for name, own in state.optimizer.items()} == {
        network: [kept.SPEAKERS] * (network == GENERATOR) for network in state.params
    }
    caplog.clear()
    state, config = begin(joined, tmp_path / "off", monkeypatch, warmstart_ckpt=voice)
    assert not state.anchors and not config.optimizer.kept_speakers
    assert "anna, ben were there before: --keep-speakers hold, or a number" in caplog.text


@pytest.mark.slow
def test_what_cannot_be_kept(joined: Path, voice: Path, tmp_path: Path) -> None:
    def refused(dataset: Path, expected: str, **more: Any) -> None:
        with pytest.raises(UserError, match=expected):
            train(small(dataset, tmp_path / "run", **REAL, **more))
        assert not (tmp_path / "run").exists()

    hold = {"keep_speakers": "hold"}
    refused(joined, "takes no speaker of a checkpoint: expected --warmstart_ckpt", **hold)
    others = write_uneven(tmp_path / "others", [7, 7], ["carl", "dora"])
    refused(others, "no speaker's name is in both", warmstart_ckpt=voice, **hold)
    same = write_uneven(tmp_path / "same", [7, 7], ["ben", "anna"])
    refused(same, "nobody new is there to learn", warmstart_ckpt=voice, **hold)
    alone = write_uneven(tmp_path / "alone", [14])
    more = {"upsample_initial_channel": 16, "gin_channels": 0}
    refused(alone, "it has 2 speakers, the dataset 1", warmstart_ckpt=voice, **hold, **more)
    refused(
        joined,
        "gives this run no speaker to keep: no speaker's name|no speaker to keep",
        vocoder_warmstart_ckpt=voice,
        **hold,
    )


@pytest.mark.parametrize("value", ["0", "-1", "nan", "on", "inf", "6000"])
def test_what_is_no_strength(joined: Path, tmp_path: Path, value: str, capsys: Any) -> None:
    assert main(flags(joined, tmp_path / "run", keep_speakers=value)) == 2
    expected = "at most 1 / --learning-rate, 5000" if value == "6000" else "off, hold or a number"
    assert expected in capsys.readouterr().err


# A run


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hold", STRENGTH])
def test_a_run(joined: Path, voice: Path, tmp_path: Path, how: Any, caplog: Any) -> None:
    """The real step, stopped and continued, beside a run that keeps nobody."""
    caplog.set_level(logging.INFO, "vits_jax")
    more = {"warmstart_ckpt": voice, "learning_rate": 1e-3, **REAL}
    old = leaves(voice)
    asked = {"keep_speakers": how, **more}
    train(small(joined, tmp_path / "run", max_steps=2, **asked))
    half = leaves(tmp_path / "run")
    assert half[TABLE][1:].tobytes() == old[TABLE].tobytes()
    train(small(joined, tmp_path / "run", max_steps=4, **asked))
    after = leaves(tmp_path / "run")
    assert after[TABLE][1:].tobytes() == old[TABLE].tobytes()
    assert np.all(after[TABLE][0] != half[TABLE][0])
    names = [name for name in old if name.startswith("['params']") and name != TABLE]
    if how == "hold":
        assert [name for name in names if after[name].tobytes() != old[name].tobytes()] == []
        return
    assert "anna now, from how they spoke at the beginning, 2 sentences: mcd" in caplog.text
    unseen = {"check_val_every_n_epoch": 1000}
    train(small(joined, tmp_path / "whole", max_steps=4, **asked, **unseen))
    assert_equal(after, leaves(tmp_path / "whole"))
    anchors = {name: x for name, x in after.items() if name.startswith("['anchors']")}
    for name, anchor in anchors.items():
        assert anchor.tobytes() == old[name.replace("anchors", "params", 1)].tobytes()
    train(small(joined, tmp_path / "free", max_steps=4, **more, **unseen))
    free = leaves(tmp_path / "free")
    near, far = (
        sum(np.abs(run[n] - old[n]).sum() for n in names if f"'{GENERATOR}'" in n)
        for run in (after, free)
    )
    assert near < 0.8 * far  # four steps of at most 1e-3 each, half of what is gone taken back
    assert not np.array_equal(free[TABLE][1:], old[TABLE])


@pytest.mark.slow
def test_going_on(
    joined: Path, voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The anchors are the checkpoint's; they may be left."""
    caplog.set_level(logging.INFO, "vits_jax")
    more: dict[str, Any] = {"warmstart_ckpt": voice, "keep_speakers": 100}
    first, config = begin(joined, tmp_path / "first", monkeypatch, **more)
    moved = jax.tree.map(lambda x: x + 1, first.params)
    checkpoints = Checkpoints(tmp_path / "run", Keep())
    raw = json.loads((joined / "config.json").read_text())
    metadata = Metadata(config, Position(), raw, {})
    checkpoints.save(0, first.replace(params=moved).to_dict(), metadata)
    checkpoints.close()

    more = {"resume_from_checkpoint": tmp_path / "run"}
    state, config = begin(joined, tmp_path / "300", monkeypatch, keep_speakers=300, **more)
    assert config.optimizer.kept_speakers == (1, 2)
    for name, anchor in state.anchors[GENERATOR].items():
        np.testing.assert_array_equal(anchor, first.params[GENERATOR][name])
        assert not np.array_equal(anchor, state.params[GENERATOR][name])

    state, config = begin(joined, tmp_path / "off", monkeypatch, **more)
    assert not state.anchors and config.optimizer.kept_speakers == ()
    assert "--keep-speakers off: it was 100, all learns from here on" in caplog.text


def kept_by(how: str) -> Config:
    kept_speakers = () if how == "off" else (1, 2)
    return Config().replaced({"keep_speakers": how, "kept_speakers": kept_speakers})


@pytest.mark.parametrize("was", ["off", "hold", "1", "2"])
@pytest.mark.parametrize("now", ["off", "hold", "1", "2"])
def test_what_goes_on(was: str, now: str) -> None:
    """The same, off, or another number; nothing that the checkpoint does not know."""
    metadata = SimpleNamespace(config=kept_by(was))
    source: Any = SimpleNamespace(where=Path("run"), metadata=metadata)
    asked = Config().replaced({"keep_speakers": now})
    if now in (was, "off") or {was, now} == {"1", "2"}:
        assert keeping.going_on(asked, source) == kept_by(now)
    else:
        with pytest.raises(UserError, match=f"was {was} and is now {now}: run does not say where"):
            keeping.going_on(asked, source)
