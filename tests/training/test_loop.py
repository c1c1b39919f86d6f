"""The loop: where runs go, stop, continue, and what they refuse."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.runs import assert_equal, flags, leaves, read_events, small, stand_in, write_dataset
from vits_jax.checkpoints import store
from vits_jax.checkpoints.saving import Keep
from vits_jax.commands.train import configure
from vits_jax.errors import UserError
from vits_jax.training import feeding, loop, run_directory
from vits_jax.training.loop import train


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    return stand_in(monkeypatch)


def steps(run_dir: Path) -> list[int]:
    return [int(d.name) for d in store.step_directories(run_dir / "checkpoints")]


def scalars(run_dir: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard would show: ``{tag: {step: value}}``, later files over earlier ones."""
    found: dict[str, dict[int, float]] = {}
    for event in read_events(run_dir):
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7])
def test_interrupted_and_resumed_equals_uninterrupted(dataset, tmp_path, traced, stop: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = train(small(dataset, whole, max_steps=8))
    first = train(small(dataset, parts, max_steps=stop))
    assert first.step == stop
    again = train(small(dataset, parts, max_steps=8))
    assert (again.step, again.epoch, again.batch) == (expected.step, expected.epoch, expected.batch)
    assert_equal(leaves(parts), leaves(whole))


def test_another_order_of_batches_would_show(dataset, tmp_path, traced):
    """The stand-in step sees which batches it gets: the tests above can fail."""
    train(small(dataset, tmp_path / "a", max_steps=2))
    train(small(dataset, tmp_path / "b", max_steps=2, seed=1))
    a, b = leaves(tmp_path / "a"), leaves(tmp_path / "b")
    difference = "['params']['model_g']['x']"
    start = tmp_path / "c", tmp_path / "d"
    for run_dir, seed in zip(start, (1234, 1), strict=True):
        train(small(dataset, run_dir, max_steps=0, seed=seed))
    moved = [x[difference] - leaves(d)[difference] for x, d in zip((a, b), start, strict=True)]
    assert not np.allclose(moved[0], moved[1], rtol=1e-3)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_continues(
    dataset, tmp_path, traced, monkeypatch, number, code
):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    train(small(dataset, whole, max_steps=6))
    take, count = feeding.Ahead.__next__, []

    def take_and_stop(feed):
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), number)
        return take(feed)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(feeding.Ahead, "__next__", take_and_stop)
        outcome = train(small(dataset, run_dir, max_steps=6))
    assert (outcome.exit_code, outcome.step, steps(run_dir)) == (code, 1, [1])
    assert signal.getsignal(number) == before
    assert train(small(dataset, run_dir, max_steps=6)).exit_code == 0
    assert_equal(leaves(run_dir), leaves(whole))


def test_signals_elsewhere_than_in_the_main_thread(dataset, tmp_path, traced):
    outcomes: list[loop.Outcome] = []
    config = small(dataset, tmp_path / "run", max_steps=1)
    thread = threading.Thread(target=lambda: outcomes.append(train(config)))
    thread.start()
    thread.join()
    assert outcomes[0].step == 1


def test_resume_on_another_number_of_devices(dataset, tmp_path, traced):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    train(small(dataset, whole, max_steps=5))
    train(small(dataset, run_dir, max_steps=2, devices=4))
    train(small(dataset, run_dir, max_steps=5, devices=2))
    a, b = leaves(whole), leaves(run_dir)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


def test_max_steps_0_saves_the_initial_state(dataset, tmp_path, traced):
    outcome = train(small(dataset, tmp_path / "run", max_steps=0))
    assert (outcome.step, steps(tmp_path / "run"), traced) == (0, [0], [])
    assert leaves(tmp_path / "run")["['step']"] == 0


def test_epochs(dataset, tmp_path, traced):
    outcome = train(small(dataset, tmp_path / "run", max_epochs=2))
    assert (outcome.epoch, outcome.batch, outcome.step % 2) == (2, 0, 0)
    per_epoch = outcome.step // 2
    assert steps(tmp_path / "run") == [per_epoch, 2 * per_epoch]
    assert train(small(dataset, tmp_path / "run", max_epochs=2)).step == outcome.step
    longer = train(small(dataset, tmp_path / "run", max_epochs=3))
    assert longer.step == 3 * per_epoch


@pytest.mark.parametrize(("limit", "expected"), [("1", 1), ("2", 2), ("1.0", None), ("0.5", 1)])
def test_limit_train_batches(dataset, tmp_path, traced, limit, expected):
    whole = train(small(dataset, tmp_path / "whole", max_epochs=1)).step
    outcome = train(small(dataset, tmp_path / "run", max_epochs=2, limit_train_batches=limit))
    assert outcome.step == 2 * (whole if expected is None else expected)


def test_fast_dev_run_saves_nothing(dataset, tmp_path, traced):
    outcome = train(small(dataset, tmp_path / "run", fast_dev_run=1))
    assert (outcome.step, outcome.run_dir) == (1, None)
    assert len(traced) == 2  # a step of training and one of validation
    assert not (tmp_path / "run").exists()


def test_one_trace_per_shape_and_validation_adds_none(dataset, tmp_path, traced):
    train(small(dataset, tmp_path / "run", max_epochs=3, num_buckets=3, batch_size=2))
    with_validation = Counter(traced)
    traced.clear()
    config = small(dataset, tmp_path / "without", max_epochs=3, num_buckets=3, batch_size=2)
    train(config.replaced({"check_val_every_n_epoch": 4}))
    by_training = Counter(traced)
    assert set(by_training.values()) == {1}
    assert len(by_training) > 1
    by_validation = with_validation - by_training
    assert set(by_validation.values()) == {1}
    assert set(by_validation) <= set(by_training)


def test_what_is_kept(dataset, tmp_path, traced):
    run_dir = tmp_path / "run"
    # The stand-in's validation loss falls to a minimum and rises again as x crosses zero.
    config = small(
        dataset, run_dir, max_epochs=8, limit_train_batches=1, keep_newest=2, keep_epochs=3
    )
    train(config)
    mel = scalars(run_dir)["validation/mel"]
    best = min(mel, key=lambda step: mel[step])
    assert steps(run_dir) == sorted({7, 8, 3, 6, best})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Keep(3, 1, None, "mel")),
        ({"keep_best": 0}, Keep(3, 0, None, "mel")),
        ({"keep_best": "kl"}, Keep(3, 1, None, "kl")),
        ({"keep_best": "kl", "keep_best_by": "kl"}, Keep(3, 1, None, "kl")),
        ({"keep_best": 2, "keep_best_by": "dur"}, Keep(3, 2, None, "dur")),
        ({"keep_best": "-1"}, "--keep-best -1: expected at least 0"),
        ({"keep_best": "2.5"}, "--keep-best 2.5: expected a whole number, or the name of"),
        ({"keep_best": "kl", "keep_best_by": "dur"}, "--keep-best kl: expected a whole number"),
        ({"keep_best_by": "epochs"}, "--keep-best-by epochs: expected the name of a metric"),
    ],
)
def test_what_the_best_are_kept_by(dataset, tmp_path, given, expected):
    if isinstance(expected, Keep):
        assert Keep.of(small(dataset, tmp_path / "run", **given).run) == expected
    else:
        with pytest.raises(UserError, match=expected):
            small(dataset, tmp_path / "run", **given)


@pytest.mark.parametrize("by", ["mel", "kl", "mcd"])
def test_a_metric_that_nothing_gives_is_warned_of_once(dataset, tmp_path, traced, caplog, by):
    caplog.set_level(logging.INFO)
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_epochs=3, keep_best=by, keep_newest=1))
    assert f"checkpoints kept: the newest 1, the best 1 by {by}" in caplog.text
    # Of the stand-in all losses are the same.
    losses = store.metrics_of(store.resolve(run_dir))
    assert losses.keys() - {"epochs"} == {
        *("loss_g", "loss_d", "mel", "kl", "dur", "fm", "gen", "disc")
    }
    best = min(scalars(run_dir)["validation/kl"].items(), key=lambda found: found[1])[0]
    if by == "mcd":
        assert caplog.text.count("--keep-best-by mcd: no evaluation gives such a number (they") == 1
        assert steps(run_dir) == steps(run_dir)[-1:]
    else:
        assert "no evaluation gives" not in caplog.text
        assert best in steps(run_dir)


def test_every_checkpoint_can_be_kept_and_steps_be_saved(dataset, tmp_path, traced):
    config = small(dataset, tmp_path / "run", max_steps=6, keep_newest=-1, checkpoint_steps=2)
    outcome = train(config)
    per_epoch = (outcome.step - outcome.batch) // outcome.epoch
    epochs = range(per_epoch, 7, per_epoch)
    assert steps(tmp_path / "run") == sorted({2, 4, 6, *epochs})


def test_tensorboard(dataset, tmp_path, traced):
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_epochs=2, log_every_n_steps=1, lr_decay=0.5))
    found = scalars(run_dir)
    per_epoch = max(found["train/mel"]) // 2
    losses = ("loss_g", "loss_d", "mel", "kl", "dur", "fm", "gen", "disc")
    for name in (*losses, "grad_norm_g", "grad_norm_d"):
        assert sorted(found[f"train/{name}"]) == list(range(1, 2 * per_epoch + 1))
    assert sorted(found["validation/mel"]) == [per_epoch, 2 * per_epoch]
    rates = found["train/learning_rate"]
    assert rates[1] == pytest.approx(2e-4)
    assert rates[2 * per_epoch] == pytest.approx(1e-4)
    assert found["train/learning_rate_d"][2 * per_epoch] == pytest.approx(2e-4 * 0.999875)
    assert min(found["speed/steps_per_second"].values()) > 0
    assert min(found["speed/speech_seconds_per_second"].values()) > 0


def test_runs_are_numbered_and_hold_their_configuration(dataset, tmp_path, traced, caplog):
    caplog.set_level(logging.INFO)
    argv = [f for f in flags(dataset, Path("x"), max_steps=1) if not f.startswith("--run_dir")]
    for number in (0, 1):
        outcome = train(configure(argv))
        assert outcome.run_dir == dataset / "runs" / f"version_{number}"
    messages = [record.message for record in caplog.records]
    assert messages[0] == f"run directory: {dataset / 'runs' / 'version_0'}"
    elsewhere = train(configure([*argv, f"--default-root-dir={tmp_path / 'root'}"]))
    assert elsewhere.run_dir == tmp_path / "root" / "runs" / "version_0"
    # The configuration of a run starts the same run elsewhere.
    again = configure([f"--config={elsewhere.run_dir / 'config.yaml'}"])
    assert again == configure([*argv, f"--default-root-dir={tmp_path / 'root'}"])


def test_resume_from_another_run(dataset, tmp_path, traced):
    first, second, whole = tmp_path / "first", tmp_path / "second", tmp_path / "whole"
    train(small(dataset, first, max_steps=2))
    outcome = train(small(dataset, second, max_steps=5, resume_from_checkpoint=first))
    train(small(dataset, whole, max_steps=5))
    assert outcome.step == 5
    assert_equal(leaves(second), leaves(whole))
    assert steps(first) == [2]
    # A checkpoint in the run directory beats the flag.
    train(small(dataset, second, max_steps=6, resume_from_checkpoint=first))
    train(small(dataset, whole, max_steps=6))
    assert_equal(leaves(second), leaves(whole))


def test_resume_with_other_data_starts_the_epoch_again(dataset, tmp_path, traced, caplog):
    caplog.set_level(logging.INFO)
    train(small(dataset, tmp_path / "a", max_steps=2))
    other = write_dataset(tmp_path / "more" / "data", utterances=20)
    outcome = train(
        small(other, tmp_path / "b", max_steps=3, resume_from_checkpoint=tmp_path / "a")
    )
    assert (outcome.step, outcome.epoch, outcome.batch) == (3, 0, 1)
    assert "at the start of epoch 0" in caplog.text


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 7}, "--seed was 1234 and is now 7"),
        ({"batch_size": 2}, "--batch-size was 4 and is now 2"),
        ({"n_layers": 2}, "--n-layers was 1 and is now 2"),
        ({"validation_split": 0.5}, "--validation-split was 0.2 and is now 0.5"),
        ({"c_mel": 1}, "--c-mel was 45.0 and is now 1.0"),
    ],
)
def test_a_run_directory_of_another_configuration(dataset, tmp_path, traced, changed, named):
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=1))

    def times() -> dict[Path, int]:
        files = (path for path in run_dir.rglob("*") if path.name != run_directory.LOCK)
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    with pytest.raises(UserError, match=named):
        train(small(dataset, run_dir, max_steps=2, **changed))
    assert times() == before


def test_what_may_change(dataset, tmp_path, traced):
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=1))
    changes = {
        **{"learning_rate": 1e-3, "learning_rate_d": 1e-3, "lr_decay": 0.9, "devices": 2},
        **{"checkpoint_steps": 1, "keep_newest": 2, "log_every_n_steps": 3, "max_epochs": 9},
    }
    assert train(small(dataset, run_dir, max_steps=2, **changes)).step == 2


def test_a_run_directory_of_other_data(dataset, tmp_path, traced):
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=1))
    lines = (dataset / "dataset.jsonl").read_text().splitlines()
    changed = json.loads(lines[3]) | {"phoneme_ids": [1, 0, 9, 0, 2]}
    (dataset / "dataset.jsonl").write_text("\n".join([*lines[:3], json.dumps(changed), *lines[4:]]))
    with pytest.raises(
        UserError, match=r"on other data: .* has changed \(14 utterances, not the same\)"
    ):
        train(small(dataset, run_dir, max_steps=2))


def test_a_relative_run_directory_is_continued(dataset, tmp_path, traced, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(small(dataset, Path("run"), max_steps=1))
    assert train(small(dataset, Path("run"), max_steps=2)).step == 2


def test_a_moved_dataset_is_the_same(dataset, tmp_path, traced):
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=1))
    moved = dataset.rename(tmp_path / "moved")
    assert train(small(moved, run_dir, max_steps=2)).step == 2


def test_devices_that_do_not_divide_the_batch(dataset, tmp_path, traced):
    with pytest.raises(UserError, match=r"--batch-size 7: expected a multiple of the 4 .* 8"):
        train(small(dataset, tmp_path / "run", batch_size=7, devices=4))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"--devices 9: JAX finds 8 here"):
        train(small(dataset, tmp_path / "run", batch_size=9, devices=9))
    with pytest.raises(UserError, match=r"--accelerator tpu: JAX finds no such device"):
        train(small(dataset, tmp_path / "run", accelerator="tpu"))


def test_bad_data_leaves_nothing_behind(dataset, tmp_path, traced):
    (dataset / "3.wav").unlink()
    with pytest.raises(UserError, match=r"dataset.jsonl:4"):
        train(small(dataset, tmp_path / "deep" / "run"))
    assert not (tmp_path / "deep").exists()
    with pytest.raises(UserError, match="no such|not a directory|does not exist"):
        train(small(tmp_path / "absent", tmp_path / "run"))
    assert not (tmp_path / "absent").exists()


def test_resuming_from_nothing_or_another_model(dataset, tmp_path, traced):
    with pytest.raises(UserError, match="no such checkpoint"):
        train(small(dataset, tmp_path / "run", resume_from_checkpoint=tmp_path / "none"))
    (tmp_path / "voice.ckpt").touch()
    with pytest.raises(UserError, match="voice.ckpt: not a checkpoint that PyTorch can read"):
        train(small(dataset, tmp_path / "run", resume_from_checkpoint=tmp_path / "voice.ckpt"))
    train(small(dataset, tmp_path / "a", max_steps=1))
    with pytest.raises(UserError, match="another model: --hidden-channels was 16 and is now 32"):
        train(
            small(
                dataset,
                tmp_path / "run",
                hidden_channels=32,
                resume_from_checkpoint=tmp_path / "a",
            )
        )
    assert not (tmp_path / "run").exists()
