"""What goes wrong around a run: it goes on, or ends with one line and all of its work."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.runs import assert_equal, flags, leaves, no_room, read_events, small, stand_in
from tests.runs import write_dataset as write
from vits_jax.checkpoints import store
from vits_jax.checkpoints.saving import Checkpoints
from vits_jax.errors import RunFailed, UserError
from vits_jax.training import feeding, prepared, run_directory, validation
from vits_jax.training.events import Events
from vits_jax.training.loop import train
from vits_jax.training.outputs import Saves
from vits_jax.training.skipping import read_dump


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write(tmp_path / "data")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    return stand_in(monkeypatch)


def steps(run_dir: Path) -> list[int]:
    return [int(d.name) for d in store.step_directories(run_dir / "checkpoints")]


# Updates that are skipped


def test_updates_that_are_not_finite_are_skipped_and_too_many_end_the_run(
    dataset, tmp_path, traced, caplog
):
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=2))
    good = leaves(run_dir)
    with pytest.raises(
        RunFailed, match=r"step 6: 4 updates in a row were skipped.*loss_g inf"
    ) as e:
        train(small(dataset, run_dir, max_steps=20, learning_rate=2, max_skipped_updates=4))
    assert "dataset.jsonl:" in str(e.value)
    assert "the last good state is saved as step 6" in str(e.value)
    assert caplog.text.count("the update is skipped") == 1
    assert steps(run_dir)[-1] == 6
    after = leaves(run_dir)
    assert_equal(
        {n: x for n, x in after.items() if n != "['step']"},
        {n: x for n, x in good.items() if n != "['step']"},
    )
    dump = read_dump(run_dir / "dumps" / "step-6.npz")
    assert dump.checkpoint.resolve() == store.resolve(run_dir)
    assert dump.about["step"] == 6
    assert len(dump.about["utterances"]) == int(dump.batch["weight"].sum())
    # With finite numbers the same command goes on.
    assert train(small(dataset, run_dir, max_steps=8)).step == 8


@pytest.mark.parametrize("most", [1, 2, 3])
def test_nothing_is_trained_after_the_last_skipped_update(dataset, tmp_path, traced, most):
    """Or the dump would not repeat it: numbers are read some steps late."""
    run_dir = tmp_path / "run"
    with pytest.raises(RunFailed, match=f"step {most}: {most} updates"):
        train(small(dataset, run_dir, learning_rate=2, max_skipped_updates=most))
    assert steps(run_dir)[-1] == most


def test_a_skipped_update_now_and_then_does_not_end_it(dataset, tmp_path, traced, monkeypatch):
    make, calls = prepared.make_train_step, []

    def make_train_step(config, mesh):
        step = make(config, mesh)

        class Sometimes:
            out_info = None

            def trace(self, *arguments):
                return self

            def lower(self):
                return self

            def compile(self):
                return self

            def memory_analysis(self):
                return None

            def __call__(self, state, batch, rates):
                calls.append(1)
                rate = jnp.float32(2.0 if len(calls) % 3 else 1e-4)
                return step(state, batch, rates | {"learning_rate": rate})

        return Sometimes()

    monkeypatch.setattr(prepared, "make_train_step", make_train_step)
    config = small(dataset, tmp_path / "run", max_steps=9, max_skipped_updates=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax.transfer_guard", lambda kind: contextlib.nullcontext())
        assert train(config).step == 9
    found = {}
    for event in read_events(tmp_path / "run"):
        found |= {value.tag: value.simple_value for value in event.summary.value}
    assert found["train/skipped"] == 6
    assert np.isfinite(found["train/mel"])


def test_a_dump_that_is_none(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match=r"x\.npz: not a dump"):
        read_dump(tmp_path / "x.npz")


# Saved, then validated


def not_finite_where(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """Validation losses that are not finite for one utterance, the one so many samples long."""

    def make_eval_step(config, mesh):
        def evaluate(params, batch, first_row):
            weight = jnp.sum(batch["weight"])
            broken = jnp.any((batch["audio_lengths"] == bad) & (batch["weight"] > 0))
            total = jnp.where(broken, jnp.nan, weight)
            names = ("loss_g", "loss_d", "mel", "kl", "dur", "fm", "gen", "disc")
            return dict.fromkeys(names, total) | {"weight": weight}

        return jax.jit(evaluate)

    monkeypatch.setattr(validation, "make_eval_step", make_eval_step)


def test_a_validation_loss_that_is_not_finite_is_a_warning_that_names_the_utterance(
    dataset, tmp_path, traced, monkeypatch, caplog
):
    held_out, datasets = [], []
    init = validation.Validation.__init__

    def spy(self, config, mesh, dataset, plan, rows, *more):
        held_out.extend(int(row) for row in rows)
        datasets.append(dataset)
        init(self, config, mesh, dataset, plan, rows, *more)

    monkeypatch.setattr(validation.Validation, "__init__", spy)
    train(small(dataset, tmp_path / "first", max_steps=0, validation_split=0.4))
    culprit = held_out[1]
    bad = int(datasets[0].samples[culprit])
    assert (datasets[0].samples[held_out] == bad).sum() == 1

    not_finite_where(monkeypatch, bad)
    outcome = train(small(dataset, tmp_path / "run", max_epochs=2, validation_split=0.4))
    assert outcome.epoch == 2
    assert len(steps(tmp_path / "run")) == 2
    line = datasets[0].lines[culprit]
    warnings = [r.getMessage() for r in caplog.records if "not finite" in r.getMessage()]
    assert len(warnings) == 2
    assert all(f"those of dataset.jsonl:{line};" in message for message in warnings)


def test_the_checkpoint_is_there_before_validation_begins(dataset, tmp_path, traced, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(self, *arguments):
        raise Killed

    monkeypatch.setattr(validation.Validation, "losses", killed)
    with pytest.raises(Killed):
        train(small(dataset, tmp_path / "run", max_epochs=2))
    (step,) = steps(tmp_path / "run")
    assert store.read_metadata(store.resolve(tmp_path / "run")).position.epoch == 1
    assert step > 0


def test_a_signal_ends_a_validation(dataset, tmp_path, traced, monkeypatch):
    ahead, seen = feeding.Feeder.ahead, []

    @contextlib.contextmanager
    def interrupting(feed):
        def batches():
            for batch in feed:
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append(1)
                yield batch

        with feed:
            yield batches()

    def interrupted(feeder, plan, *position, **more):
        feed = ahead(feeder, plan, *position, **more)
        return interrupting(feed) if plan.seed is None else feed  # validation is not shuffled

    monkeypatch.setattr(feeding.Feeder, "ahead", interrupted)
    config = small(dataset, tmp_path / "run", max_epochs=3, batch_size=2, validation_split=0.5)
    outcome = train(config)
    assert (outcome.exit_code, outcome.epoch, seen) == (143, 1, [1])
    assert steps(tmp_path / "run") == [outcome.step]


# When to save


def at(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    monkeypatch.setattr("vits_jax.training.outputs.time.monotonic", lambda: 60.0 * minutes)


def test_when_a_save_is_due(tmp_path, monkeypatch):
    def saves(**more) -> Saves:
        at(monkeypatch, 100)
        return Saves(small(tmp_path / "data", tmp_path, **{"checkpoint_minutes": 15} | more).run)

    by_default = saves()
    at(monkeypatch, 107.4)
    assert not by_default.at_end(1, 4)
    at(monkeypatch, 107.6)
    assert by_default.at_end(1, 4)
    assert not by_default.at_end(1, 4, looked_at=False), "it waits for somebody to judge it"
    assert not by_default.within_epoch(7)
    at(monkeypatch, 115.1)
    assert by_default.at_end(1, 4, looked_at=False), "but no longer than this"
    assert by_default.within_epoch(7)
    by_default.saved()
    assert not by_default.within_epoch(8)

    assert saves(checkpoint_epochs=1).at_end(1, 4)
    every_other = saves(checkpoint_epochs=2)
    at(monkeypatch, 300)
    assert [every_other.at_end(epoch, 4) for epoch in (1, 2)] == [False, True]
    assert [saves(keep_epochs=3).at_end(epoch, 4) for epoch in (1, 2, 3)] == [False, False, True]
    assert [saves(checkpoint_steps=5).within_epoch(step) for step in (4, 5)] == [False, True]
    never = saves(checkpoint_minutes=0)
    at(monkeypatch, 1000)
    assert not never.within_epoch(7)
    assert never.at_end(1, 4)


def test_short_epochs_are_not_saved_each_and_long_ones_are_within(dataset, tmp_path, traced):
    by_default = {"checkpoint_minutes": 15, "keep_newest": -1}
    train(small(dataset, tmp_path / "short", max_epochs=4, **by_default))
    assert len(steps(tmp_path / "short")) == 1  # the end of the run
    longer = {"checkpoint_minutes": 1e-6, "keep_newest": -1}  # than so many minutes, each step
    outcome = train(small(dataset, tmp_path / "long", max_epochs=2, **longer))
    assert steps(tmp_path / "long") == list(range(1, outcome.step + 1))


# A full disk


def test_a_full_disk_does_not_end_a_run_that_gets_room_again(
    dataset, tmp_path, traced, monkeypatch, caplog
):
    """Events and checkpoints fail for a while; in the end all is as without it."""
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    train(small(dataset, whole, max_epochs=8, keep_newest=-1, log_every_n_steps=1))
    save, rooms = Checkpoints.save, []

    def full_for_a_while(self, step, state, metadata):
        self.settle()
        if len(rooms) in (2, 3, 4):
            with no_room(1000):
                save(self, step, state, metadata)
                self.settle()
        else:
            save(self, step, state, metadata)
        rooms.append(step)

    scalars = Events.scalars

    def also(self, step, values):
        if len(rooms) in (3, 4):
            with no_room(1000):
                scalars(self, step, values)
        else:
            scalars(self, step, values)

    monkeypatch.setattr(Checkpoints, "save", full_for_a_while)
    monkeypatch.setattr(Events, "scalars", also)
    train(small(dataset, run_dir, max_epochs=8, keep_newest=-1, log_every_n_steps=1))
    assert_equal(leaves(run_dir), leaves(whole))
    lost = set(steps(whole)) - set(steps(run_dir))
    assert lost == set(rooms[2:5])
    assert caplog.text.count("events cannot be written") == 1
    assert caplog.text.count("events are written again") == 1
    assert caplog.text.count("could not be saved") == 3
    ours, theirs = ({e.step for e in read_events(d)} for d in (run_dir, whole))
    assert ours < theirs, "whole events, and some of them missing"
    assert max(ours) == max(theirs)


def test_events_outlive_a_directory_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "run").touch()  # not a directory
    events = Events(tmp_path / "run", 0)
    events.scalars(1, {"x": 1.0})
    events.scalars(2, {"x": 1.0})
    assert caplog.text.count("events cannot be written") == 1
    (tmp_path / "run").unlink()
    (tmp_path / "run").mkdir()
    events.scalars(3, {"x": 1.0})
    events.close()
    assert [event.step for event in read_events(tmp_path / "run")][-1] == 3
    assert "2 were lost" in caplog.text


def test_event_files_follow_each_other_though_the_clock_goes_back(tmp_path, monkeypatch):
    names = []
    for now in (2_000_000_000.0, 1_000.0, 1_000.0):
        monkeypatch.setattr("vits_jax.training.events.time.time", lambda now=now: now)
        events = Events(tmp_path, 1)
        events.scalars(2, {"x": 1.0})
        events.close()
        names.append(max(path.name for path in tmp_path.glob("events.*")))
    assert len(set(names)) == 3
    assert names == sorted(names)


# Two processes

SECOND = """
import sys
from vits_jax.commands.train import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_second_start_is_refused_and_changes_nothing(dataset, tmp_path, traced):
    run_dir = tmp_path / "run"
    train(small(dataset, run_dir, max_steps=1))
    half = run_dir / "checkpoints" / "9.unfinished.orbax-checkpoint-tmp"
    half.mkdir()
    with run_directory.lock(run_dir):
        arguments = flags(dataset, run_dir, max_steps=2)
        ended = subprocess.run(
            [sys.executable, "-c", SECOND, *arguments], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2
        (line,) = [x for x in ended.stderr.splitlines() if x.startswith("error:")]
        assert f"process {os.getpid()} on " in line
        assert ", since 20" in line
        assert half.is_dir(), "the first one's unfinished save"
    train(small(dataset, run_dir, max_steps=2))
    assert not half.exists()


HOLDING = """
import os, signal, sys
from pathlib import Path
from vits_jax.training.run_directory import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match=f"process {holder.pid} on .* trains in it"),
        run_directory.lock(tmp_path),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run_directory.lock(tmp_path):
        held = json.loads((tmp_path / run_directory.LOCK).read_text())
        assert held["process"] == os.getpid()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)

    def flock(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with run_directory.lock(tmp_path):
        assert "no locks on this file system (Operation not supported)" in caplog.text


# Damage


def test_a_damaged_checkpoint_is_moved_aside_and_the_run_ends_as_undisturbed(
    dataset, tmp_path, traced, caplog
):
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    for directory in (whole, run_dir):
        train(small(dataset, directory, max_steps=4, checkpoint_steps=1))
    train(small(dataset, whole, max_steps=6))
    newest = store.resolve(run_dir)
    for path in newest.rglob("manifest.ocdbt"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"manifest\.ocdbt: damaged.*--strict"):
        train(small(dataset, run_dir, max_steps=6, strict=True))
    assert newest.is_dir()
    train(small(dataset, run_dir, max_steps=6))
    assert "step 4 is moved to" in caplog.text
    assert (newest.parent / "4.damaged").is_dir()
    assert_equal(leaves(run_dir), leaves(whole))
