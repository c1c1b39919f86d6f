"""Runs with ``--speaker-weights``: what is trained on, on any devices, and after a stop."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.runs import HOP, assert_equal, leaves, small, stand_in, write_uneven
from vits_jax.data.manifest import load_dataset
from vits_jax.errors import UserError
from vits_jax.training import loop
from vits_jax.training.feeding import Ahead
from vits_jax.training.loop import train

SIZES = [3, 9, 30]
ALL = {"validation_split": 0, "num_test_examples": 0}  # every utterance is trained on
UNIFORM = {0: 14, 1: 14, 2: 14}
BATCHES = [{}, {"batch_size": None, "batch_frames": 2700, "num_buckets": 3}]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_uneven(tmp_path / "data", SIZES)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    return stand_in(monkeypatch)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The numbers of each step, as the run counts them."""
    seen: list[Any] = []
    numbers = loop.StepNumbers

    def noted(**values: Any) -> Any:
        seen.append(numbers(**values))
        return seen[-1]

    monkeypatch.setattr(loop, "StepNumbers", noted)
    return seen


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, np.ndarray]]]:
    """Batches as they were on the devices, and how many those were."""
    seen: list[tuple[int, dict[str, np.ndarray]]] = []
    following = Ahead.__next__

    def noted(ahead: Ahead) -> Any:
        bucket, batch = following(ahead)
        seen.append((len(batch["audio"].devices()), jax.device_get(batch)))
        return bucket, batch

    monkeypatch.setattr(Ahead, "__next__", noted)
    return seen


@pytest.mark.parametrize("batch", BATCHES)
def test_an_epoch_has_the_weights_on_1_and_8_devices(dataset, tmp_path, traced, fed, batch):
    runs = []
    for devices in (1, 8):
        fed.clear()
        flags = ALL | {"batch_size": 8} | batch | {"devices": devices, "max_epochs": 2}
        run_dir = tmp_path / f"on {devices}"
        outcome = train(small(dataset, run_dir, speaker_weights="uniform", **flags))
        per_epoch = outcome.step // 2
        for epoch in range(2):
            counts: Counter[int] = Counter()
            for used, rows in fed[epoch * per_epoch : (epoch + 1) * per_epoch]:
                assert used == devices
                counts.update(rows["speaker_ids"][rows["weight"] == 1].tolist())
            assert counts == UNIFORM
        runs.append([rows for _, rows in fed])
    if not batch:  # rows within so many frames are a multiple of the devices
        for one, other in zip(*runs, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("batch", BATCHES)
def test_a_run_goes_on_in_the_middle_of_an_epoch(dataset, tmp_path, traced, steps, batch):
    flags = ALL | batch | {"speaker_weights": "sqrt", "max_epochs": 3}
    whole = train(small(dataset, tmp_path / "whole", **flags))
    uninterrupted = [(n.step, n.epoch, n.rows) for n in steps]
    steps.clear()
    stopped_in = whole.step // 3 + 2  # the second epoch
    first = train(small(dataset, tmp_path / "parts", **flags, max_steps=stopped_in))
    assert (first.epoch, first.batch) == (1, 2)
    then = train(small(dataset, tmp_path / "parts", **flags))
    assert [(n.step, n.epoch, n.rows) for n in steps] == uninterrupted
    assert (then.step, then.epoch) == (whole.step, 3)
    assert_equal(leaves(tmp_path / "parts"), leaves(tmp_path / "whole"))
    speakers = load_dataset(dataset, hop_length=HOP, min_samples=32).speaker_ids
    times = np.zeros(sum(SIZES), np.int64)
    for epoch in range(3):
        rows = [row for n in steps if n.epoch == epoch for row in n.rows]
        assert np.bincount(speakers[rows]).tolist() == [7, 12, 23]  # of 42: 7.1, 12.4, 22.5
        times += np.bincount(rows, minlength=len(times))
    for speaker in range(3):
        assert np.ptp(times[speakers == speaker]) <= 1


def test_the_start_names_the_rows_of_each_speaker(dataset, tmp_path, traced, caplog):
    caplog.set_level(logging.INFO)
    train(small(dataset, tmp_path / "run", **ALL, max_steps=1, speaker_weights="uniform"))
    assert (
        "speakers in an epoch: speaker 0 14 rows of 3 utterances, speaker 1 14 rows of 9 "
        "utterances, speaker 2 14 rows of 30 utterances"
    ) in caplog.text


def test_other_weights_are_another_run(dataset, tmp_path, traced):
    run_dir, weights = tmp_path / "run", tmp_path / "weights.yaml"
    weights.write_text("".join(f"speaker {i}: 2.5\n" for i in range(3)))

    def go_on(**flags: Any) -> Any:
        return train(small(dataset, run_dir, **ALL, **flags))

    go_on(max_steps=2, speaker_weights="uniform")
    assert go_on(max_steps=3, speaker_weights=weights).step == 3  # they are the same
    for asked, was in (("sqrt", f"was {weights} and is now sqrt"), (None, "is now None")):
        with pytest.raises(UserError, match=f"other rows of each speaker: .*{was}"):
            go_on(max_steps=4, speaker_weights=asked)
    weights.write_text("speaker 0: 1\nspeaker 1: 2\nspeaker 2: 2\n")
    with pytest.raises(UserError, match=f"is now {weights}, with other weights in it: use"):
        go_on(max_steps=4, speaker_weights=weights)
    elsewhere = small(
        *(dataset, tmp_path / "other"),
        **{**ALL, "max_steps": 4, "speaker_weights": weights, "resume_from_checkpoint": run_dir},
    )
    outcome = train(elsewhere)
    assert (outcome.step, outcome.epoch, outcome.batch) == (4, 0, 1)  # the epoch begins again


def test_what_cannot_be_weighed_leaves_nothing_behind(dataset, tmp_path, traced):
    (tmp_path / "weights.yaml").write_text("nobody: 1\n")
    flags = {"speaker_weights": tmp_path / "weights.yaml"}
    with pytest.raises(UserError, match="has no speaker 'nobody'"):
        train(small(dataset, tmp_path / "run", **flags))
    with pytest.raises(UserError, match="--speaker-weights '': expected uniform, sqrt or a file"):
        small(dataset, tmp_path / "run", speaker_weights="")
    assert not (tmp_path / "run").exists()
