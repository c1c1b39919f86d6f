"""A budget of frames: long utterances make small batches, and cost what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.batching.test_batches import SPEECH, Utterances, each_batch, plan_of, utterances
from vits_jax.data.batching.batches import Plan, validation_plan
from vits_jax.data.batching.buckets import rows_within
from vits_jax.data.checks.step_memory import predict

HOP, SEGMENT = 256, 32
MINUTE = 60 * 22050  # samples


def corpus(planted: int = 0) -> Utterances:
    """Two thousand utterances of 0.5 to 10 s, the first so many of them a minute long."""
    data = utterances(2000, longest=860, rates=SPEECH)
    data.samples[:planted] = MINUTE
    data.id_lengths[:planted] = MINUTE // HOP // 4
    return data


def memory(plan: Plan, quality: str, devices: int = 1) -> int:
    """Bytes on one device for the largest of a plan's batches, as it is predicted."""
    each = (predict(quality, b.rows // devices, b.phonemes, b.frames) for b in plan.used_buckets)
    return max(bytes for bytes in each if bytes is not None)


@pytest.mark.parametrize("quality", ["x-low", "medium", "high"])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_minute_among_short_utterances_takes_a_tenth_more_memory_at_most(quality, devices):
    for batch_frames in np.geomspace(devices * 5_000, devices * 200_000, 12).astype(int):
        batch = {"batch_frames": int(batch_frames), "devices": devices}
        short, long = (plan_of(corpus(planted), **batch) for planted in (0, 1))
        assert long.used_buckets[-1].frames >= MINUTE / HOP
        assert memory(long, quality, devices) <= 1.1 * memory(short, quality, devices)


def test_with_a_batch_size_it_takes_several_times_as_much():
    """What the budget is for: this is how it would be without."""
    short, long = (plan_of(corpus(planted), batch_size=32) for planted in (0, 1))
    assert memory(long, "medium") > 2 * memory(short, "medium")


@given(st.integers(1, 10**6), st.integers(SEGMENT, 6000), st.sampled_from([1, 2, 3, 4, 8, 12]))
def test_rows_within_a_budget(batch_frames, frames, devices):
    rows = rows_within(batch_frames, frames, SEGMENT, devices)
    assert rows % devices == 0
    assert rows == devices or rows * frames <= batch_frames
    assert rows >= rows_within(batch_frames, frames + 1, SEGMENT, devices)
    assert rows <= rows_within(batch_frames + 1, frames, SEGMENT, devices)
    if devices in (1, 2, 4) and rows >= 8:  # the others of them can continue
        assert rows % 4 == 0


def test_rows_grow_with_the_budget_and_shrink_with_the_length():
    data = corpus(planted=1)
    rows = [b.rows for b in plan_of(data, batch_frames=40_000).buckets]
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) == len(rows) > 2
    twice = [b.rows for b in plan_of(data, batch_frames=80_000).buckets]
    assert min(twice) > min(rows)
    assert max(twice) > max(rows)


def test_an_epoch_of_many_sizes_is_the_same_number_of_batches_each_time():
    data = corpus(planted=7)
    plan = plan_of(data, batch_frames=40_000)
    for epoch in range(3):
        planned = plan.epoch(epoch)
        assert len(planned.buckets) == plan.steps_per_epoch
        assert sorted(planned.rows[planned.weight == 1].tolist()) == list(range(2000))
        for bucket, (rows, _) in zip(planned.buckets, each_batch(planned)):
            assert (data.samples[rows] <= plan.buckets[bucket].frames * HOP).all()


def test_a_minute_that_is_held_out_changes_nothing_in_training():
    data = corpus(planted=1)
    trained, held_out = np.arange(200, 2000), np.arange(200)
    plan = plan_of(data, trained, batch_size=32)
    assert plan.buckets[-1].frames <= 864
    assert plan.padding < 0.25
    validation, too_long = validation_plan(plan, data, held_out)
    assert too_long.tolist() == [0]
    assert set(validation.used_buckets) <= set(plan.used_buckets)


@pytest.mark.parametrize("batch", [{"batch_size": None}, {"batch_size": 4, "batch_frames": 4000}])
def test_one_of_the_two(batch):
    with pytest.raises(ValueError, match="expected one"):
        plan_of(utterances(5), **batch)
