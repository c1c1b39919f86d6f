"""Running averages of the weights: what they are, how they are kept, who uses them."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import vits_jax
from tests.runs import assert_equal, flags, leaves, small, stand_in, write_dataset
from tests.voice import test_voice
from vits_jax.checkpoints import store
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.store import Metadata
from vits_jax.commands.export_onnx import main as export_onnx
from vits_jax.commands.infer import main as infer
from vits_jax.commands.train import main
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.networks import GENERATOR
from vits_jax.state import Position, TrainState
from vits_jax.training import optimizer
from vits_jax.training.loop import train
from vits_jax.voice import export, verify

AVERAGE, WEIGHTS = "['averages']['model_g']['x']", "['params']['model_g']['x']"
DECAY = 0.9


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The step is a stand-in; its averages are the real one's (`optimizer.averaged`)."""
    return stand_in(monkeypatch)


def formula(average: np.ndarray, weights: np.ndarray, decay: float) -> np.ndarray:
    return decay * average.astype(np.float64) + (1 - decay) * weights.astype(np.float64)


def assert_to_an_ulp(got: np.ndarray, expected: np.ndarray, *scale: np.ndarray) -> None:
    """Of the largest number that goes into it."""
    assert got.dtype == np.float32
    ulp = np.spacing(np.max(np.abs(np.stack([got, *scale])), axis=0))
    assert np.all(np.abs(got.astype(np.float64) - expected) <= ulp)


@pytest.mark.parametrize("decay", [0.5, 0.999, 0.9999])
def test_an_average_is_the_formula(decay: float) -> None:
    random = np.random.default_rng(0)
    step = jax.jit(functools.partial(optimizer.averaged, decay=decay))
    average = {"a": random.normal(size=(7, 30)).astype(np.float32)}
    for _ in range(5):
        weights = {"a": random.normal(size=(7, 30)).astype(np.float32)}
        new = jax.device_get(step(average, weights, apply=jnp.asarray(True)))
        expected = formula(average["a"], weights["a"], decay)
        assert_to_an_ulp(new["a"], expected, average["a"], weights["a"])
        average = new
    # Where it comes to rest is where the weights are, not some ten-thousandths beside.
    resting = jax.device_get(step(weights, weights, apply=jnp.asarray(True)))
    np.testing.assert_array_equal(resting["a"], weights["a"])


def test_a_step_that_is_none_changes_no_average() -> None:
    """Not the zeros' signs even."""
    average = {"a": np.array([1.5, -0.0, 1e-30], np.float32)}
    weights = {"a": np.array([2.5, 1.0, np.nan], np.float32)}
    same = jax.jit(functools.partial(optimizer.averaged, decay=DECAY))
    got = jax.device_get(same(average, weights, apply=jnp.asarray(False)))["a"]
    assert got.tobytes() == average["a"].tobytes()


# A run


def at_each_step(run_dir: Path, name: str) -> list[np.ndarray]:
    """An array of every checkpoint."""
    return [
        leaves(directory)[name] for directory in store.step_directories(run_dir / store.DIRECTORY)
    ]


def test_averages_of_a_run(dataset: Path, tmp_path: Path) -> None:
    run_dir, every = tmp_path / "run", {"keep_newest": -1, "checkpoint_steps": 1}
    train(small(dataset, run_dir, max_steps=0, ema_decay=DECAY, **every))
    train(small(dataset, run_dir, max_steps=5, ema_decay=DECAY, **every))
    averages, weights = at_each_step(run_dir, AVERAGE), at_each_step(run_dir, WEIGHTS)
    assert len(averages) == 6
    np.testing.assert_array_equal(averages[0], weights[0])
    for before, average, new in zip(averages, averages[1:], weights[1:]):
        assert_to_an_ulp(average, formula(before, new, DECAY), before, new)
    assert not np.array_equal(averages[-1], weights[-1])
    assert not any("averages" in name and "model_d" in name for name in leaves(run_dir))


@pytest.mark.parametrize("devices", [1, 4])
def test_stopped_and_continued(dataset: Path, tmp_path: Path, devices: int) -> None:
    """Bit for bit, and with other devices to rounding (of the stand-in's sums)."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(small(dataset, whole, max_steps=5, ema_decay=DECAY))
    train(small(dataset, parts, max_steps=2, ema_decay=DECAY, devices=devices))
    train(small(dataset, parts, max_steps=5, ema_decay=DECAY))
    got, expected = leaves(parts), leaves(whole)
    assert AVERAGE in got
    if devices == 1:
        assert_equal(got, expected)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6, err_msg=name)


def test_skipped_updates_leave_averages(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=2, ema_decay=DECAY))
    before = leaves(run_dir)
    # Of the stand-in, whose loss is infinite at such a rate.
    train(small(dataset, run_dir, max_steps=4, ema_decay=DECAY, learning_rate=2))
    after = leaves(run_dir)
    assert after["['step']"] == 4
    for name in (AVERAGE, WEIGHTS):
        assert after[name].tobytes() == before[name].tobytes()


def test_averages_begin_in_the_middle_of_a_run(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=2))
    before = leaves(run_dir)
    assert AVERAGE not in before
    train(small(dataset, run_dir, max_steps=3, ema_decay=DECAY))
    assert "averages of the weights begin at step 2" in caplog.text
    after = leaves(run_dir)
    expected = formula(before[WEIGHTS], after[WEIGHTS], DECAY)
    assert_to_an_ulp(after[AVERAGE], expected, before[WEIGHTS], after[WEIGHTS])


@pytest.mark.parametrize("flag", ["run_dir", "resume_from_checkpoint"])
def test_a_run_goes_on_as_its_checkpoint_says_unless_the_flag_is_given(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, flag: str
) -> None:
    caplog.set_level(logging.INFO)
    first = tmp_path / "first"
    train(small(dataset, first, max_steps=2, ema_decay=DECAY))
    run_dir = first if flag == "run_dir" else tmp_path / "second"
    more = {} if flag == "run_dir" else {"resume_from_checkpoint": first}
    assert main(flags(dataset, run_dir, max_steps=3, **more)) == 0
    assert f"ema_decay {DECAY}, as in the checkpoint" in caplog.text
    assert AVERAGE in leaves(run_dir)
    assert main([*flags(dataset, run_dir, max_steps=4, **more), "--ema-decay=0.5"]) == 0
    assert store.read_metadata(store.resolve(run_dir)).config.optimizer.ema_decay == 0.5
    assert main([*flags(dataset, run_dir, max_steps=5, **more), "--ema-decay=0"]) == 0
    assert "--ema-decay 0: the averages in" in caplog.text
    assert AVERAGE not in leaves(run_dir)


def test_a_warm_start_begins_them_from_its_own_weights(dataset: Path, tmp_path: Path) -> None:
    train(small(dataset, tmp_path / "old", max_steps=3, ema_decay=DECAY, seed=5))
    more = {"max_steps": 0, "ema_decay": DECAY, "warmstart_ckpt": tmp_path / "old"}
    with pytest.MonkeyPatch.context() as patch:
        shapes = {"model_g": {"x": (3,)}, "model_d": {"x": (3,)}}
        patch.setattr("vits_jax.checkpoints.warm_start.parameter_shapes", lambda config: shapes)
        patch.setattr("vits_jax.checkpoints.warm_start._SYMBOLS", "x")
        train(small(dataset, tmp_path / "new", **more))
    old, new = leaves(tmp_path / "old"), leaves(tmp_path / "new")
    np.testing.assert_array_equal(new[WEIGHTS], old[WEIGHTS])
    np.testing.assert_array_equal(new[AVERAGE], old[WEIGHTS])


def test_validation_is_of_the_averages(dataset: Path, tmp_path: Path) -> None:
    """The stand-in's mel loss is a weight, squared."""
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_epochs=1, ema_decay=DECAY))
    found = leaves(run_dir)
    mel = store.metrics_of(store.resolve(run_dir))["mel"]
    assert mel == pytest.approx(found[AVERAGE][0] ** 2, rel=1e-6)
    assert mel != pytest.approx(found[WEIGHTS][0] ** 2, rel=1e-4)


@pytest.mark.parametrize("decay", [1, -0.1, 1.5, "nan"])
def test_decays_that_cannot_be(dataset: Path, tmp_path: Path, decay: object) -> None:
    with pytest.raises(UserError, match="--ema-decay .*: expected above 0 and below 1, or 0"):
        small(dataset, tmp_path / "run", ema_decay=decay)


# Speaking


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with averages, which say something else than its weights."""
    voice, directory = test_voice.voice(), tmp_path_factory.mktemp("run")
    plain = jax.device_get(voice.parameters)
    averages = {name: 0.9 * array for name, array in plain.items()}
    state = TrainState(np.array(7, np.int32), {GENERATOR: plain}, {}, {GENERATOR: averages})
    checkpoints = Checkpoints(directory, Keep())
    config: Config = voice.config.replaced({"ema_decay": DECAY})
    dataset = dict(voice.dataset) | {"language": {"code": "en-gb"}}
    checkpoints.save(7, state.to_dict(), Metadata(config, Position(), dataset, {}))
    checkpoints.close()
    return directory


@pytest.mark.parametrize("ema", [True, False])
def test_a_voice_has_the_averages(spoken: Path, ema: bool) -> None:
    voice = vits_jax.load(spoken, ema=ema)
    for name, array in jax.device_get(test_voice.voice().parameters).items():
        expected = 0.9 * array if ema else array
        np.testing.assert_array_equal(voice.parameters[name], expected.astype(np.float32))


@pytest.mark.parametrize(
    ("argv", "line"),
    [([], "averaged weights (--no-ema: plain ones)"), (["--no-ema"], "plain weights")],
)
def test_export_and_infer_use_the_averages(
    spoken: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    line: str,
) -> None:
    # That graphs speak as JAX does is not asked here: it compiles for half a minute.
    monkeypatch.setattr(export, "compare", lambda *_: verify.Agreement(0, 0, 0, 1, 1, True))
    caplog.set_level(logging.INFO)
    assert export_onnx([str(spoken), str(tmp_path / "voice.onnx"), *argv]) == 0
    said = ["--phoneme-ids", "1 0 5 0 2", "--output-dir", str(tmp_path / "out")]
    assert infer(["--checkpoint", str(spoken), *said, *argv]) == 0
    assert caplog.text.count(f"{store.resolve(spoken)}: {line}") == 2
    table = jax.device_get(test_voice.voice().parameters["enc_p.emb.weight"])
    stored = {t.name: t for t in onnx.load(tmp_path / "voice.onnx").graph.initializer}
    found = [numpy_helper.to_array(t) for t in stored.values() if tuple(t.dims) == table.shape]
    scale = (table.shape[1]) ** 0.5
    wanted = (table if argv else 0.9 * table) * scale
    assert any(np.allclose(array, x) for array in found for x in (wanted, wanted / scale))
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert ("averaged over training steps" in card) == (not argv)


def test_no_ema_where_there_are_no_averages(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    voice = test_voice.voice()
    state = TrainState(np.array(0, np.int32), {GENERATOR: jax.device_get(voice.parameters)})
    checkpoints = Checkpoints(tmp_path / "run", Keep())
    metadata = Metadata(voice.config, Position(), voice.dataset, {})
    checkpoints.save(0, state.to_dict(), metadata)
    checkpoints.close()
    vits_jax.load(tmp_path / "run")
    assert caplog.text == ""
    vits_jax.load(tmp_path / "run", ema=False)
    assert "it has no averages" in caplog.text
