"""What a checkpoint says of its batches, and the plan that is made of it again."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from tests.runs import HOP, SMALL, write_dataset
from vits_jax.config import FIELDS, Config
from vits_jax.data.batching import batches
from vits_jax.data.batching.batches import Plan
from vits_jax.data.batching.buckets import Bucket, Schedule
from vits_jax.data.batching.planning import Planner
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.data.split import split
from vits_jax.flag_types import convert

BATCHES = [{"batch_size": 4}, {"batch_frames": 1350}]  # 4 rows of 256 + 40 to 64 frames


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = write_dataset(tmp_path_factory.mktemp("planning") / "data", utterances=40)
    return load_dataset(directory, hop_length=HOP, min_samples=32)


def planner(dataset: Dataset, devices: int = 1, **flags: Any) -> Planner:
    values = SMALL | {"num_buckets": 3} | flags
    config = Config().replaced({n: convert(v, FIELDS[n].type, n) for n, v in values.items()})
    parts = split(dataset.keys, config.data.validation_split, config.data.num_test_examples)
    return Planner(config, dataset, parts, devices)


def written(planner: Planner, plan: Plan | None = None) -> dict[str, Any]:
    """What a checkpoint says, as it is read again."""
    return json.loads(json.dumps(planner.identity(plan or planner.new())))


def assert_same(plan: Plan | None, other: Plan) -> None:
    assert plan is not None
    assert plan.buckets == other.buckets
    assert plan.padding == other.padding
    for epoch in (0, 3):
        one, two = plan.epoch(epoch), other.epoch(epoch)
        for name in ("buckets", "starts", "rows", "weight"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("batch", BATCHES)
def test_a_plan_is_made_again(dataset, batch):
    run = planner(dataset, **batch)
    assert run.same_data(written(run))
    assert_same(run.again(written(run)), run.new())


@pytest.mark.parametrize("batch", BATCHES)
def test_a_release_with_other_rules_goes_on_with_what_is_kept(dataset, batch, monkeypatch):
    before = planner(dataset, **batch)
    plan, kept = before.new(), written(before)
    rows = plan.buckets[0].rows
    monkeypatch.setattr(batches, "choose_buckets", lambda *lengths: (Bucket(16, 96, rows),))
    monkeypatch.setattr(batches, "schedule", lambda counts, buckets: Schedule((99,), (False,), 0))
    run = planner(dataset, **batch)
    assert run.new().buckets != plan.buckets
    assert run.same_data(kept)
    assert_same(run.again(kept), plan)
    assert written(run, run.again(kept)) == kept  # and it is kept on


@pytest.mark.parametrize(
    "flags",
    [
        {"batch_size": 2},
        {"batch_size": None, "batch_frames": 1350},
        {"num_buckets": 1},
        {"seed": 7},
        {"validation_split": 0.5},
        {"num_test_examples": 5},
        {"segment_size": 640},
        {"limit_train_batches": 2},
    ],
)
def test_other_flags_make_other_batches_of_the_same_data(dataset, flags):
    kept, run = (
        written(planner(dataset, batch_size=4)),
        planner(dataset, **{"batch_size": 4} | flags),
    )
    assert run.same_data(kept)
    assert run.again(kept) is None


@pytest.mark.parametrize("column", ["keys", "id_lengths", "samples", "speaker_ids", "ids"])
def test_other_data(dataset, column):
    """Every column counts, and so does an utterance more."""
    values = getattr(dataset, column).copy()
    values[3] += 1
    kept = written(planner(dataset, batch_size=4))
    assert not planner(dataclasses.replace(dataset, **{column: values}), batch_size=4).same_data(
        kept
    )
    assert planner(dataset, batch_size=4).same_data(kept)


def test_another_shuffle_shows(dataset, monkeypatch):
    """NumPy may draw in another way one day."""
    kept, epoch = written(planner(dataset, batch_size=4)), Plan.epoch
    monkeypatch.setattr(Plan, "epoch", lambda plan, number: epoch(plan, number + 1))
    run = planner(dataset, batch_size=4)
    assert run.same_data(kept)
    assert run.again(kept) is None


def test_a_plan_goes_to_other_devices_that_its_rows_divide_by(dataset):
    begun = planner(dataset, batch_frames=1350)
    plan, kept = begun.new(), written(begun)
    assert {bucket.rows for bucket in plan.buckets} == {4}
    for devices in (2, 4):
        assert_same(planner(dataset, devices, batch_frames=1350).again(kept), plan)
    other = planner(dataset, 3, batch_frames=1350)
    assert other.same_data(kept)
    assert other.again(kept) is None
    assert {bucket.rows for bucket in other.new().buckets} == {3}


def test_what_is_not_of_a_run_here(dataset):
    """A checkpoint of Piper's, or of a voice, knows of no batches."""
    run = planner(dataset, batch_size=4)
    assert not run.same_data({})
    assert run.again({}) is None
