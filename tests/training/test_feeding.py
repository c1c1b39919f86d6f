"""Batches on the devices: ahead of the step, the same from storage and from device memory."""

from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.runs import HOP, assert_equal, leaves, read_events, small, stand_in, write_dataset
from vits_jax.data.batching.batches import Plan, batches, make_plan
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.errors import RunFailed, UserError
from vits_jax.training import feeding, memory, progress
from vits_jax.training.feeding import READY, Ahead, Feeder
from vits_jax.training.loggers import Records
from vits_jax.training.loop import train
from vits_jax.training.mesh import make_mesh
from vits_jax.training.progress import SPEED_OVER, Progress, StepNumbers


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("feeding") / "data", utterances=22)


@pytest.fixture(scope="module")
def dataset(directory: Path) -> Dataset:
    return load_dataset(directory, hop_length=HOP, min_samples=32)


def plan_of(dataset: Dataset) -> Plan:
    sizes: dict[str, Any] = {"batch_size": 8, "num_buckets": 3, "segment_frames": 32}
    return make_plan(dataset, np.arange(len(dataset)), hop_length=HOP, seed=1, **sizes)


def feeder(directory: Path, dataset: Dataset, devices: int, **more: Any) -> Feeder:
    config = small(directory, directory.parent / "run", **more)
    return Feeder(config, make_mesh(devices), dataset)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("devices", [1, 4])
def test_batches_are_those_that_are_read(directory, dataset, devices, on_device):
    plan = plan_of(dataset)
    assert len(plan.used_buckets) > 1
    feed = feeder(directory, dataset, devices, data_on_device=str(on_device).lower())
    with feed.ahead(plan, 1, 1, count=5) as ahead:
        found = list(ahead)
    expected = list(batches(dataset, plan, 1, 1, 5))
    assert len(found) == len(expected) == 5
    for (bucket, batch), (planned, read) in zip(found, expected, strict=True):
        assert bucket == planned
        assert_equal(jax.device_get(batch), read)
        for name, array in batch.items():
            assert (array.dtype, len(array.devices())) == (read[name].dtype, devices)
            assert array.addressable_shards[0].data.shape[0] == bucket.rows // devices


def test_an_epoch_may_be_cut_short(directory, dataset):
    """Of each epoch its first batches, and without a pause between two."""
    plan = plan_of(dataset)
    with feeder(directory, dataset, 1).ahead(plan, 2, 1, count=float("inf"), per_epoch=2) as ahead:
        found = [jax.device_get(batch) for _, batch in itertools.islice(ahead, 4)]
    positions = [(2, 1), (3, 0), (3, 1), (4, 0)]
    for batch, (epoch, step) in zip(found, positions, strict=True):
        ((_, read),) = batches(dataset, plan, epoch, step, 1)
        assert_equal(batch, read)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "prefetch" in thread.name}


def test_few_batches_are_made_ahead_and_the_thread_ends(directory, dataset, monkeypatch):
    made, enough = [], threading.Event()
    put_rows = feeding.put_rows

    def counting(rows, mesh):
        made.append(threading.current_thread())
        if len(made) == READY + 1:  # two wait, a third is in the thread's hands
            enough.set()
        return put_rows(rows, mesh)

    monkeypatch.setattr(feeding, "put_rows", counting)
    before = threads()
    with feeder(directory, dataset, 1).ahead(plan_of(dataset), count=float("inf")) as ahead:
        assert enough.wait(60)
        assert len(made) == READY + 1
        assert threading.main_thread() not in made
        next(ahead)
        assert ahead.waited >= 0
        running = {thread for thread in threads() - before if "thread-prefetch" in thread.name}
        assert len(running) == 1
    assert not any(thread.is_alive() for thread in running)


def test_an_error_in_the_thread_reaches_the_step(directory, dataset, monkeypatch):
    def broken(rows, mesh):
        raise UserError("this record is damaged")

    monkeypatch.setattr(feeding, "put_rows", broken)
    ahead = feeder(directory, dataset, 1).ahead(plan_of(dataset), count=9)
    with pytest.raises(UserError, match="this record is damaged"), ahead:
        next(ahead)


def test_nothing_is_moved_unasked(directory, dataset, monkeypatch):
    """In the thread as in the loop: the guard is each thread's own."""
    monkeypatch.setattr(
        feeding, "put_rows", lambda rows, mesh: {"x": jax.numpy.sin(rows["weight"])}
    )
    ahead = feeder(directory, dataset, 1).ahead(plan_of(dataset), count=9)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"), ahead:
        next(ahead)


@pytest.mark.parametrize("devices", [1, 4])
def test_the_same_run_with_the_corpus_on_the_devices(directory, tmp_path, monkeypatch, devices):
    stand_in(monkeypatch)
    flags: dict[str, Any] = {"max_epochs": 2, "devices": devices, "num_buckets": 3}
    read, kept, both = (tmp_path / name for name in ("read", "kept", "both"))
    train(small(directory, read, **flags))
    train(small(directory, kept, data_on_device="true", **flags))
    assert_equal(leaves(kept), leaves(read))
    if devices == 1:  # a run may change its mind
        train(small(directory, both, data_on_device="true", **flags | {"max_epochs": 1}))
        train(small(directory, both, **flags))
        assert_equal(leaves(both), leaves(read))
    losses = [
        [
            (event.step, value.tag, value.simple_value)
            for event in read_events(run_dir)
            for value in event.summary.value
            if value.tag.startswith("validation/")
        ]
        for run_dir in (read, kept)
    ]
    assert losses[0] == losses[1] != []


def test_a_skipped_batch_of_a_corpus_on_the_devices_is_dumped(directory, tmp_path, monkeypatch):
    stand_in(monkeypatch)
    found = []
    for on_device in ("false", "true"):
        run_dir = tmp_path / on_device
        flags = {"learning_rate": 2, "max_skipped_updates": 2, "data_on_device": on_device}
        with pytest.raises(RunFailed):
            train(small(directory, run_dir, **flags))
        with np.load(run_dir / "dumps" / "step-2.npz") as dump:
            found.append({name: dump[name] for name in dump.files if name != "about"})
    assert_equal(*found)


def test_a_corpus_that_does_not_fit(directory, tmp_path, monkeypatch):
    stand_in(monkeypatch)
    monkeypatch.setattr(memory.device_memory, "capacity", lambda device: 2 * 10**9)
    monkeypatch.setattr(feeding, "corpus_bytes", lambda *arguments: 15 * 10**8)
    expected = r"--data-on-device: .*data takes 3\.0 GB beside .*, .* has 2\.0 GB: leave the flag"
    with pytest.raises(UserError, match=expected):
        train(small(directory, tmp_path / "run", data_on_device="true", devices=2))


# Waiting


def waiting(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, share: float) -> Any:
    """Steps of a second, of which they waited a share; what was warned of, and the last share."""
    now = itertools.count()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(now)))
    events, scalars = Records(None, 0), {}
    monkeypatch.setattr(events, "scalars", lambda step, values: scalars.update(values))
    bar = Progress(0, None, 1000, events, "read faster", bar=False)
    values = dict.fromkeys(progress.SHOWN, 0.0)
    for step in range(1, 2 * SPEED_OVER):
        waited = 1000.0 if step == 1 else share  # the first is no one's fault
        bar.step(StepNumbers(step, 0, {}, 1.0, {}, [0], waited, values))
        if step == SPEED_OVER:
            assert "waited" not in caplog.text
    bar.write()
    return caplog.text, scalars["speed/waiting_share"]


@pytest.mark.parametrize(("share", "warned"), [(0.25, 1), (0.0625, 1), (0.03125, 0), (0, 0)])
def test_waiting_is_told_and_warned_of_once(caplog, monkeypatch, share, warned):
    caplog.set_level(logging.INFO)
    text, told = waiting(caplog, monkeypatch, share)
    assert told == share
    assert text.count(f"last 50 steps waited for data for {100 * share:.0f} %") == warned
    assert text.count("read faster") == warned
    assert f"wait {100 * share:.0f} %" in text


def test_what_to_do_about_it():
    assert "--data-on-device" in progress.advice(data_on_device=False)
    assert "--data-on-device" not in progress.advice(data_on_device=True)


def test_a_context_that_is_left_early_says_nothing(directory, dataset):
    ahead: Ahead = feeder(directory, dataset, 1).ahead(plan_of(dataset), count=3)
    with pytest.raises(KeyError), ahead:
        raise KeyError
