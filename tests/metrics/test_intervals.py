"""Bootstrap intervals: what they hold, how often, and of which numbers."""

from __future__ import annotations

import numpy as np
import pytest

from vits_jax.metrics import difference, interval


def test_it_holds_the_true_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        numbers = random.exponential(2.0, 40)
        found = interval(numbers, seed=seed, resamples=400)
        assert found.low < found.mean < found.high
        held += found.low <= 2.0 <= found.high
    # Of skewed numbers a percentile interval of 40 holds less than 95 %, not much less.
    assert 0.87 <= held / 400 <= 0.97


def test_it_is_as_wide_as_the_error_of_the_mean():
    numbers = np.random.default_rng(0).normal(5, 3, 10_000)
    found = interval(numbers)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 3 / 100, rel=0.06)


def test_the_same_seed_gives_the_same_and_another_another():
    numbers = np.random.default_rng(0).normal(size=20)
    assert interval(numbers, seed=1) == interval(numbers, seed=1)
    assert interval(numbers, seed=1).low != interval(numbers, seed=2).low


def test_what_is_not_a_number_is_left_out():
    assert interval(np.asarray([1.0, np.nan, 3.0]))[:1] == (2.0,)
    assert interval(np.asarray([1.0, np.nan, 3.0])).clips == 2
    one = interval(np.asarray([np.nan, 4.0]))
    assert one.mean == 4
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(interval(np.asarray([np.nan]))[:3]).all()


def test_pairs_tell_what_means_do_not():
    """Sentences differ by far more than the voices do; of pairs that does not matter."""
    random = np.random.default_rng(0)
    of_sentence = random.normal(0, 10, 30)
    a = of_sentence + 0.5 + random.normal(0, 0.1, 30)
    b = of_sentence + random.normal(0, 0.1, 30)
    a[3] = np.nan
    found = difference(a, b)
    assert found.low > 0.4
    assert found.high < 0.6
    assert found.clips == 29
    assert interval(a).low < interval(b).mean
