"""The batch plan: everything once an epoch, the same everywhere, exact to continue."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vits_jax.data.batching.batches import EpochPlan, Plan, batches, make_plan, validation_plan
from vits_jax.data.batching.buckets import Bucket, assign, schedule

HOP, SEGMENT = 256, 32
SPEECH = (0.2, 0.34)  # phoneme ids per frame, as people speak


class Utterances(SimpleNamespace):
    """What a plan and `batches` ask of a dataset, without files."""

    def phoneme_ids(self, row: int) -> np.ndarray:
        return np.arange(1, self.id_lengths[row] + 1)

    def audio(self, row: int) -> np.ndarray:
        return np.full(self.samples[row], row + 1, np.int16)


def utterances(
    count: int, seed: int = 0, longest: int = 900, rates: tuple[float, float] = (0.05, 0.9)
) -> Utterances:
    random = np.random.default_rng(seed)
    samples = random.integers(2 * HOP, longest * HOP, count)
    ids = np.maximum(1, samples / HOP * random.uniform(*rates, count)).astype(np.int32)
    return Utterances(
        samples=samples.astype(np.int32),
        id_lengths=ids,
        speaker_ids=random.integers(0, 9, count).astype(np.int32),
    )


def plan_of(data: Utterances, rows=None, num_buckets=4, seed=1, **batch) -> Plan:
    return make_plan(
        data,
        np.arange(len(data.samples)) if rows is None else rows,
        hop_length=HOP,
        segment_frames=SEGMENT,
        num_buckets=num_buckets,
        seed=seed,
        **(batch or {"batch_size": 4}),
    )


def each_batch(planned: EpochPlan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return map(planned.batch, range(len(planned.buckets)))


cases = st.fixed_dictionaries(
    {
        "count": st.integers(1, 90),
        "seed": st.integers(0, 1000),
        "longest": st.sampled_from([3, 40, 900, 9000]),
        "batch": st.one_of(
            st.fixed_dictionaries({"batch_size": st.sampled_from([1, 2, 4, 8, 24])}),
            st.fixed_dictionaries(
                {
                    "batch_frames": st.sampled_from([1, 3000, 9000, 40_000]),
                    "devices": st.sampled_from([1, 2, 3, 8]),
                }
            ),
        ),
        "num_buckets": st.integers(1, 7),
    }
)


def build(case: dict) -> tuple[Utterances, Plan]:
    data = utterances(case["count"], case["seed"], case["longest"])
    return data, plan_of(data, None, case["num_buckets"], case["seed"], **case["batch"])


@settings(deadline=None)
@given(cases, st.integers(0, 10_000))
def test_every_utterance_is_used_exactly_once_an_epoch(case, epoch):
    _, plan = build(case)
    planned = plan.epoch(epoch)
    assert len(planned.buckets) == len(planned.starts) - 1 == plan.steps_per_epoch
    assert planned.rows.shape == planned.weight.shape == (planned.starts[-1],)
    assert sorted(planned.rows[planned.weight == 1].tolist()) == list(range(case["count"]))
    assert set(np.unique(planned.weight)) <= {0, 1}
    for bucket, (rows, weight) in zip(planned.buckets, each_batch(planned), strict=True):
        assert len(rows) == plan.buckets[bucket].rows
        assert len(rows) % case["batch"].get("devices", 1) == 0
        real = rows[weight == 1]
        assert len(real) >= 1
        assert set(rows[weight == 0]) <= set(real)  # filled with rows of the same batch


@settings(deadline=None)
@given(cases, st.integers(0, 10_000))
def test_every_row_fits_its_bucket(case, epoch):
    data, plan = build(case)
    planned = plan.epoch(epoch)
    for index, (rows, _) in zip(planned.buckets, each_batch(planned), strict=True):
        bucket = plan.buckets[index]
        assert (data.samples[rows] <= bucket.frames * HOP).all()
        assert (data.id_lengths[rows] <= bucket.phonemes).all()
        assert bucket.frames >= SEGMENT


@settings(deadline=None)
@given(cases)
def test_few_shapes_and_each_is_used(case):
    _, plan = build(case)
    assert 1 <= len(plan.buckets) <= case["num_buckets"]
    assert plan.used_buckets == plan.buckets
    assert np.unique(plan.epoch(0).buckets).tolist() == list(range(len(plan.buckets)))
    pairs = itertools.pairwise(plan.buckets)
    assert all(a.phonemes <= b.phonemes and a.frames <= b.frames and a != b for a, b in pairs)
    assert all(a.rows >= b.rows for a, b in itertools.pairwise(plan.buckets))


@settings(deadline=None)
@given(cases)
def test_padding_is_what_it_says(case):
    data, plan = build(case)
    planned = plan.epoch(3)
    padded = sum(plan.buckets[i].frames * plan.buckets[i].rows for i in planned.buckets)
    used = np.ceil(data.samples / HOP).sum()
    assert plan.padding == pytest.approx(1 - used / padded)
    padded = sum(plan.buckets[i].phonemes * plan.buckets[i].rows for i in planned.buckets)
    assert plan.phoneme_padding == pytest.approx(1 - data.id_lengths.sum() / padded)


@settings(deadline=None)
@given(cases, st.integers(0, 100))
def test_a_plan_is_a_pure_function_of_seed_and_epoch(case, epoch):
    one, other = build(case)[1].epoch(epoch), build(case)[1]
    other.epoch(epoch + 1)
    again = other.epoch(epoch)
    for name in ("buckets", "rows", "weight"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))


def test_each_epoch_and_each_seed_shuffles_both_rows_and_batches():
    data = utterances(400)
    plans = [plan_of(data, seed=seed).epoch(epoch) for seed in (1, 2) for epoch in (0, 1)]
    for one, other in itertools.combinations(plans, 2):
        assert (one.rows != other.rows).any()
        assert (one.buckets != other.buckets).any()  # the order of the batches
        companions = [{frozenset(r.tolist()) for r, _ in each_batch(p)} for p in (one, other)]
        assert len(companions[0] & companions[1]) < 5


def test_rows_that_are_left_over_take_turns():
    """Who goes up to a larger bucket, or is in the last, incomplete batch, changes."""
    data = utterances(43)
    plan = plan_of(data, batch_size=8)
    incomplete = [
        next(frozenset(r.tolist()) for r, weight in each_batch(plan.epoch(i)) if not weight.all())
        for i in range(6)
    ]
    assert len(set(incomplete)) == 6


def test_more_shapes_waste_less():
    data = utterances(2000, rates=SPEECH)
    padding = [plan_of(data, batch_size=16, num_buckets=n).padding for n in (1, 2, 4, 8)]
    assert padding == sorted(padding, reverse=True)
    assert padding[0] > 0.45
    assert padding[2] < 0.2
    assert padding[3] < 0.12


def test_a_shape_more_has_to_be_worth_it():
    data = utterances(200)
    data.samples[:] = 300 * HOP
    data.id_lengths[:] = 90
    assert plan_of(data, num_buckets=8).buckets == (Bucket(96, 304, 4),)


@pytest.mark.parametrize(
    ("counts", "batches", "carries", "cost"),
    [
        ((8, 8), (2, 2), (False, False), 432),
        ((9, 7), (2, 2), (True, False), 432),  # one goes up and fills the gap
        ((5, 4), (2, 1), (False, False), 288),  # a gap below is cheaper than a batch above
        ((3, 0), (1, 0), (False, False), 72),  # and nothing goes up for nothing
        ((0, 1), (0, 1), (False, False), 144),
        ((0, 0), (0, 0), (False, False), 0),
    ],
)
def test_left_over_rows_go_where_they_cost_least(counts, batches, carries, cost):
    plan = schedule(counts, (Bucket(2, 8, 4), Bucket(4, 16, 4)))
    assert (plan.batches, plan.carries, plan.cost) == (batches, carries, cost)


def test_no_shape_is_compiled_for_left_over_rows_alone():
    plan = schedule((1, 0), (Bucket(1, 5, 3), Bucket(2, 10, 1)))
    assert (plan.batches, plan.carries, plan.cost) == ((1, 0), (False, False), 33)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.randoms())
def test_no_schedule_is_cheaper(counts, random):
    rows = sorted((random.choice([1, 3, 8]) for _ in counts), reverse=True)
    buckets = tuple(
        Bucket(i, random.randint(i, i + 3) + 4 * i, rows) for i, rows in enumerate(rows, start=1)
    )
    # Nothing is carried past the last bucket that has utterances: that were one more shape.
    last = max((i for i, count in enumerate(counts) if count), default=0)
    costs = []
    for some in itertools.product([False, True], repeat=last):
        decisions = some + (False,) * (len(counts) - 1 - last)
        carried = cost = 0
        for count, bucket, carry in zip(counts, buckets, (*decisions, False), strict=True):
            full, rest = divmod(count + carried, bucket.rows)
            carried = rest if carry else 0
            cost += (full + (bool(rest) and not carry)) * bucket.rows * bucket.cost
        costs.append(cost)
    assert schedule(tuple(counts), buckets).cost == min(costs)


@settings(deadline=None)
@given(cases, st.data())
def test_validation_compiles_nothing_new_and_sees_everything_once(case, data):
    everything = utterances(case["count"] + 1, case["seed"], case["longest"])
    held_out = data.draw(
        st.lists(st.integers(0, case["count"]), unique=True, max_size=case["count"])
    )
    rows = np.setdiff1d(np.arange(case["count"] + 1), held_out)
    held_out = np.array(held_out, np.int64)
    plan = plan_of(everything, rows, case["num_buckets"], **case["batch"])
    validation, too_long = validation_plan(plan, everything, held_out)
    assert set(validation.used_buckets) <= set(plan.used_buckets)
    planned = validation.epoch(0)
    heard = planned.rows[planned.weight == 1].tolist()
    assert sorted([*heard, *too_long]) == sorted(held_out.tolist())
    longest, most = everything.samples[rows].max(), everything.id_lengths[rows].max()
    within = (everything.samples <= longest) & (everything.id_lengths <= most)
    assert not within[too_long].any()  # what is not longer than all of training is heard
    np.testing.assert_array_equal(planned.rows, validation.epoch(1).rows)
    trained = plan.epoch(0)
    assert sorted(trained.rows[trained.weight == 1].tolist()) == rows.tolist()


def test_a_row_that_fits_nowhere():
    with pytest.raises(ValueError, match="larger than the largest bucket"):
        assign((Bucket(8, 32, 4),), np.array([9]), np.array([1]))


def test_batches_hold_what_the_plan_says():
    data = utterances(11, longest=60)
    plan = plan_of(data, batch_size=4)
    planned = plan.epoch(2)
    loaded = list(batches(data, plan, epoch=2))
    assert len(loaded) == plan.steps_per_epoch
    for step, (bucket, batch) in enumerate(loaded):
        rows, weight = planned.batch(step)
        assert bucket == plan.buckets[planned.buckets[step]]
        shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
        assert shapes == {
            "phoneme_ids": ("int32", (4, bucket.phonemes)),
            "phoneme_lengths": ("int32", (4,)),
            "audio": ("int16", (4, bucket.frames * HOP)),
            "audio_lengths": ("int32", (4,)),
            "speaker_ids": ("int32", (4,)),
            "weight": ("float32", (4,)),
        }
        np.testing.assert_array_equal(batch["weight"], weight)
        np.testing.assert_array_equal(batch["phoneme_lengths"], data.id_lengths[rows])
        np.testing.assert_array_equal(batch["audio_lengths"], data.samples[rows])
        np.testing.assert_array_equal(batch["speaker_ids"], data.speaker_ids[rows])
        for i, row in enumerate(rows):
            ids, audio = batch["phoneme_ids"][i], batch["audio"][i]
            np.testing.assert_array_equal(ids[ids != 0], data.phoneme_ids(row))
            np.testing.assert_array_equal(audio[audio != 0], data.audio(row))
            assert (ids[data.id_lengths[row] :] == 0).all()
            assert (audio[data.samples[row] :] == 0).all()


def same(one, other) -> bool:
    return one[0] == other[0] and all((one[1][name] == other[1][name]).all() for name in one[1])


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 30),
    st.integers(1, 20),
    st.sampled_from([{"batch_size": 4}, {"batch_frames": 2000}]),
)
def test_continuing_anywhere_gives_the_same_batches(start, count, batch):
    data = utterances(25, longest=40)
    plan = plan_of(data, **batch)
    steps = plan.steps_per_epoch
    whole = [pair for epoch in range(9) for pair in batches(data, plan, epoch)]
    epoch, batch = divmod(start, steps)
    continued = list(batches(data, plan, epoch, batch, count))
    assert len(continued) == count
    assert all(map(same, continued, whole[start : start + count]))


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("batch", [{"batch_size": 8}, {"batch_frames": 5000, "devices": 8}])
def test_processes_together_load_the_same_global_batch(batch: dict[str, int], processes: int):
    data = utterances(30, longest=40)
    plan = plan_of(data, **batch)
    whole = list(batches(data, plan, 1))
    parts = [
        list(batches(data, plan, 1, process_index=i, process_count=processes))
        for i in range(processes)
    ]
    for step, (bucket, batch) in enumerate(whole):
        assert all(part[step][0] == bucket for part in parts)
        for name, array in batch.items():
            together = np.concatenate([part[step][1][name] for part in parts])
            np.testing.assert_array_equal(together, array)


def test_processes_that_do_not_divide_a_batch():
    data = utterances(5)
    with pytest.raises(ValueError, match="4 rows do not divide by 3 processes"):
        next(batches(data, plan_of(data), process_count=3))


def test_nothing_to_validate_on_is_no_batch():
    data = utterances(5)
    none, too_long = validation_plan(plan_of(data), data, np.array([], np.int64))
    assert (none.steps_per_epoch, list(batches(data, none)), len(too_long)) == (0, [], 0)
    assert none.epoch(0).rows.shape == (0,)


def test_an_error_while_reading_reaches_the_caller():
    data = utterances(5)
    data.audio = None
    with pytest.raises(TypeError, match="not callable"):
        list(batches(data, plan_of(data)))


def test_half_a_million_utterances_are_planned_in_seconds_and_little_memory():
    data = utterances(500_000, longest=1500, rates=SPEECH)
    plan = plan_of(data, batch_size=256, num_buckets=6)
    planned = plan.epoch(0)
    assert planned.rows.nbytes + planned.weight.nbytes < 10e6
    assert (np.bincount(planned.rows[planned.weight == 1], minlength=500_000) == 1).all()
    assert plan.padding < 0.2
