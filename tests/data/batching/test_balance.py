"""Speakers with shares of an epoch: exact, heard evenly, in batches whose number is constant."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.batching.test_batches import (
    HOP,
    SPEECH,
    Utterances,
    each_batch,
    plan_of,
    utterances,
)
from vits_jax.data.batching.balance import Shares, apportioned, spread
from vits_jax.data.batching.batches import Plan, batches

UNEVEN = [3, 17, 200]
BATCHES = [
    {"batch_size": 8},
    {"batch_size": 24, "num_buckets": 1},
    {"batch_frames": 9000, "devices": 1},
    {"batch_frames": 9000, "devices": 8},
]


def spoken(sizes: list[int], seed: int = 0, longest: int = 900) -> Utterances:
    """So many utterances of each speaker, in any order."""
    data = utterances(sum(sizes), seed, longest, SPEECH)
    speakers = np.repeat(np.arange(len(sizes)), sizes)
    data.speaker_ids = np.random.default_rng(seed).permutation(speakers).astype(np.int32)
    return data


def weighted(data: Utterances, weights: list[float], **batch) -> Plan:
    shares = Shares(data.speaker_ids, apportioned(weights, len(data.samples)))
    return plan_of(data, shares=shares, **batch)


def heard(plan: Plan, epoch: int) -> np.ndarray:
    """Rows of an epoch, in the order of its batches, int ``[rows]``."""
    planned = plan.epoch(epoch)
    return planned.rows[planned.weight == 1]


cases = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 60), min_size=1, max_size=6),
        "weights": st.lists(st.sampled_from([0.0, 0.3, 1.0, 7.0]), min_size=6, max_size=6),
        "seed": st.integers(0, 1000),
        "longest": st.sampled_from([3, 40, 900]),
        "batch": st.sampled_from(
            [
                {"batch_size": 1},
                {"batch_size": 8},
                {"batch_frames": 3000, "devices": 1},
                {"batch_frames": 40_000, "devices": 8},
            ]
        ),
        "num_buckets": st.integers(1, 6),
    }
)


def build(case: dict) -> tuple[Utterances, Plan, list[float]]:
    data = spoken(case["sizes"], case["seed"], case["longest"])
    weights = case["weights"][: len(case["sizes"])]
    weights[0] = weights[0] or 1.0
    batch = case["batch"] | {"num_buckets": case["num_buckets"], "seed": case["seed"]}
    return data, weighted(data, weights, **batch), weights


@settings(deadline=None)
@given(cases, st.integers(0, 10_000))
def test_every_epoch_has_the_shares_in_the_same_shapes(case, epoch):
    data, plan, weights = build(case)
    total = len(data.samples)
    planned, first = plan.epoch(epoch), plan.epoch(0)
    assert sorted(planned.buckets) == sorted(first.buckets)
    assert len(planned.buckets) == plan.steps_per_epoch
    rows = planned.rows[planned.weight == 1]
    counts = np.bincount(data.speaker_ids[rows], minlength=len(weights))
    assert counts.sum() == total
    exact = total * np.array(weights) / sum(weights)
    assert (np.abs(counts - exact) < 1).all()
    for index, (some, weight) in zip(planned.buckets, each_batch(planned), strict=True):
        bucket = plan.buckets[index]
        assert len(some) == bucket.rows
        assert len(some) % case["batch"].get("devices", 1) == 0
        assert (data.samples[some] <= bucket.frames * HOP).all()
        assert (data.id_lengths[some] <= bucket.phonemes).all()
        real = some[weight == 1]
        assert len(real) >= 1
        assert set(some[weight == 0]) <= set(real)


@settings(deadline=None, max_examples=30)
@given(cases)
def test_a_speakers_utterances_are_heard_equally_often(case):
    """At the end of every epoch: none twice more than another."""
    data, plan, _ = build(case)
    times = np.zeros(len(data.samples), np.int64)
    for epoch in range(12):
        times += np.bincount(heard(plan, epoch), minlength=len(times))
        for speaker in np.unique(data.speaker_ids):
            own = times[data.speaker_ids == speaker]
            assert own.max() - own.min() <= 1


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("weights", "rows"),
    [
        ([1.0, 1.0, 1.0], [74, 73, 73]),
        (list(map(math.sqrt, UNEVEN)), [19, 45, 156]),
        ([0.0, 3.0, 1.0], [0, 165, 55]),
        (list(map(float, UNEVEN)), UNEVEN),
    ],
)
def test_uneven_speakers(weights, rows, batch):
    data = spoken(UNEVEN)
    plan = weighted(data, weights, **batch)
    if batch.get("num_buckets") != 1:
        assert len(plan.used_buckets) > 2
    for epoch in (0, 1, 2, 999):
        counts = np.bincount(data.speaker_ids[heard(plan, epoch)], minlength=3)
        assert counts.tolist() == rows


def test_shares_of_their_utterances_are_each_utterance_once():
    data = spoken(UNEVEN)
    plan, without = weighted(data, list(map(float, UNEVEN)), batch_size=4), plan_of(data)
    assert sorted(heard(plan, 5)) == list(range(220))
    assert (plan.buckets, plan.counts) == (without.buckets, without.counts)
    assert plan.padding == pytest.approx(without.padding)


@pytest.mark.parametrize("batch", BATCHES)
def test_what_an_epoch_may_need_is_not_much_more_than_it_needs(batch):
    """What goes up to a larger bucket is padded there: at most a row of each speaker and bucket."""
    sizes = [3, 17, 200, 90, 55, 140, 31]
    data = spoken(sizes)
    plan = weighted(data, [1.0] * len(sizes), **batch)
    often = Shares(data.speaker_ids, apportioned([1.0] * len(sizes), 536)).often(np.arange(536))
    needs = [often[members].sum() for members in plan.members]
    for bucket in range(len(plan.buckets)):
        assert sum(plan.counts[bucket:]) >= sum(needs[bucket:]) - 1e-6
        assert sum(plan.counts[bucket:]) - sum(needs[bucket:]) <= len(sizes) * len(plan.buckets)


@settings(deadline=None, max_examples=30)
@given(cases)
def test_padding_is_the_mean_over_epochs(case):
    data, plan, weights = build(case)
    frames, epochs = np.ceil(data.samples / HOP), 30
    planned = plan.epoch(0)
    padded = sum(plan.buckets[i].frames * plan.buckets[i].rows for i in planned.buckets)
    used = np.mean([frames[heard(plan, epoch)].sum() for epoch in range(epochs)])
    # Part of a lap at the end of these epochs: an utterance once more or less.
    once = sum(frames[data.speaker_ids == s].sum() for s in range(len(weights))) / epochs
    assert abs(plan.padding - (1 - used / padded)) <= once / padded + 1e-9


@settings(deadline=None)
@given(cases, st.integers(0, 1000))
def test_a_plan_is_a_pure_function_of_seed_and_epoch(case, epoch):
    one, other = build(case)[1].epoch(epoch), build(case)[1]
    other.epoch(epoch + 1)
    again = other.epoch(epoch)
    for name in ("buckets", "starts", "rows", "weight"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))


def test_each_lap_and_each_seed_has_another_order():
    """Of one speaker an epoch has a third: which ones those are. Three epochs have all."""
    data = spoken([40, 40, 20, 300])
    plans = [weighted(data, [1.0] * 4, seed=seed, batch_size=4) for seed in (1, 2)]
    epochs = [heard(plan, epoch) for plan in plans for epoch in range(9)]
    thirds = [frozenset(rows[data.speaker_ids[rows] == 3].tolist()) for rows in epochs]
    assert {len(third) for third in thirds} == {100}
    assert len(set(thirds)) == len(thirds)
    for lap in zip(*[iter(thirds)] * 3, strict=True):
        assert len(frozenset.union(*lap)) == 300


def test_no_batch_has_an_utterance_twice_where_there_are_batches_enough():
    """17 utterances have 73 rows in 28 batches. Only those of which there are three come twice."""
    data = spoken(UNEVEN)
    plan = weighted(data, [1.0] * 3, batch_size=8, num_buckets=1)
    for epoch in range(20):
        for rows, weight in each_batch(plan.epoch(epoch)):
            twice = [row for row, n in Counter(rows[weight == 1].tolist()).items() if n > 1]
            assert set(data.speaker_ids[twice]) <= {0}


def test_what_is_there_several_times_is_spread_over_the_epoch():
    random = np.random.default_rng(0)
    rows = random.permutation([*[1, 2] * 20, *[3] * 2, *range(4, 62)])
    mixed = spread(rows, random)
    assert Counter(mixed.tolist()) == Counter(rows.tolist())
    for row in (1, 2):
        assert np.diff(np.flatnonzero(mixed == row)).min() >= 2
        for quarter in np.split(mixed, 4):
            assert 3 <= np.count_nonzero(quarter == row) <= 7
    assert (spread(rows, random) != mixed).any()
    # What is there once is anywhere: in 1,000 orders in each half about as often.
    halves = [np.flatnonzero(spread(rows, random) == 5)[0] < 50 for _ in range(1000)]
    assert 400 < sum(halves) < 600


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 40), st.integers(1, 20), st.sampled_from(BATCHES))
def test_continuing_anywhere_gives_the_same_batches(start, count, batch):
    data = spoken([3, 9, 30], longest=60)
    plan = weighted(data, [1.0, 1.0, 1.0], **batch)
    whole = [
        pair
        for epoch in range((start + count) // plan.steps_per_epoch + 1)
        for pair in batches(data, plan, epoch)
    ]
    afresh = weighted(data, [1.0, 1.0, 1.0], **batch)
    continued = list(batches(data, afresh, *divmod(start, plan.steps_per_epoch), count))
    assert len(continued) == count
    for (bucket, one), (other, two) in zip(continued, whole[start : start + count], strict=True):
        assert bucket == other
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize("processes", [2, 8])
@pytest.mark.parametrize("batch", [BATCHES[0], BATCHES[3]])
def test_processes_together_hear_the_shares(batch, processes):
    data = spoken(UNEVEN, longest=40)
    plan = weighted(data, [1.0] * 3, **batch)
    counts: Counter[int] = Counter()
    whole = batches(data, plan, 4)
    parts = [
        batches(data, plan, 4, process_index=i, process_count=processes) for i in range(processes)
    ]
    for (_, batch), *rows in zip(whole, *parts, strict=True):
        for name, array in batch.items():
            together = np.concatenate([part[name] for _, part in rows])
            np.testing.assert_array_equal(together, array)
        counts.update(batch["speaker_ids"][batch["weight"] == 1].tolist())
    assert counts == {0: 74, 1: 73, 2: 73}


@pytest.mark.parametrize(
    ("weights", "total", "rows"),
    [
        ([1, 1, 1], 10, [4, 3, 3]),
        ([1, 2, 4], 10, [1, 3, 6]),
        ([0, 5], 7, [0, 7]),
        ([1e308, 1e308], 3, [2, 1]),
        ([0.1] * 10, 10, [1] * 10),
        ([1e-9, 1], 5, [0, 5]),
    ],
)
def test_rows_by_largest_remainders(weights, total, rows):
    assert apportioned(weights, total).tolist() == rows


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20).filter(any), st.integers(1, 1_000_000))
def test_rows_are_within_one_of_the_weights(weights, total):
    rows = apportioned(weights, total)
    assert rows.sum() == total
    assert (rows >= 0).all()
    exact = np.array([total * (weight / math.fsum(weights)) for weight in weights])
    assert (np.abs(rows - exact) < 1 + 1e-6).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20), st.integers(1, 1_000_000))
def test_who_weighs_more_has_no_fewer_rows(weights, total):
    by_weight = sorted(zip(weights, apportioned(weights, total), strict=True))
    for (one, fewer), (other, more) in itertools.pairwise(by_weight):
        assert fewer <= more or one == other


def test_thousands_of_speakers():
    random = np.random.default_rng(0)
    data = spoken(random.integers(3, 80, 2000).tolist(), longest=1500)
    plan = weighted(data, [1.0] * 2000, batch_size=64)
    counts = np.bincount(data.speaker_ids[heard(plan, 77)], minlength=2000)
    assert counts.max() - counts.min() <= 1
    # The price: rows that go up to larger shapes than they need.
    assert plan.padding < plan_of(data, batch_size=64).padding + 0.03
