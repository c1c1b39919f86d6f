"""Held-out utterances: by what they are, stable, about as many as asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vits_jax.data.split import split

keys = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60).map(
    lambda numbers: np.array(numbers, np.uint64)
)
shares = st.floats(0, 0.99)


def random_keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


@given(keys, shares, st.integers(0, 10))
def test_every_utterance_is_in_one_part_and_one_is_trained_on(keys, share, tests):
    parts = split(keys, share, tests)
    rows = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(rows.tolist()) == list(range(len(keys)))
    assert len(parts.train) >= 1
    assert len(parts.test) <= tests
    assert all((np.diff(part) > 0).all() for part in (parts.train, parts.validation, parts.test))


@given(st.integers(200, 400), st.integers(1, 400), st.integers(0, 2**32), shares)
def test_growing_never_moves_an_utterance_into_or_out_of_validation(count, more, seed, share):
    all_keys = random_keys(count + more, seed)
    small, large = split(all_keys[:count], share, 5), split(all_keys, share, 5)
    validated = set(small.validation)
    # Only in a corpus where (almost) everything or nothing is held out do the limits bite.
    if 0.05 < share < 0.9:
        assert validated == {row for row in large.validation if row < count}
        assert set(small.train) <= set(large.train)


@given(st.integers(200, 400), st.integers(0, 2**32), st.data())
def test_leaving_some_out_moves_no_other_but_to_speak(count, seed, data):
    """As ``--max-frames`` does: nobody goes from training to validation, nor back."""
    keys = random_keys(count, seed)
    kept = np.ones(count, bool)
    kept[data.draw(st.lists(st.integers(0, count - 1), max_size=20))] = False
    whole, part = split(keys, 0.1, 5), split(keys[kept], 0.1, 5)
    rows = np.flatnonzero(kept)
    assert set(rows[part.validation]) == {row for row in whole.validation if kept[row]}
    assert {row for row in whole.test if kept[row]} <= set(rows[part.test])
    assert set(rows[part.train]) <= set(whole.train)


def test_order_does_not_matter():
    numbers = random_keys(100)
    order = np.random.default_rng(1).permutation(100)
    one, other = split(numbers, 0.2, 5), split(numbers[order], 0.2, 5)
    for a, b in zip(
        (one.train, one.validation, one.test),
        (other.train, other.validation, other.test),
        strict=True,
    ):
        assert sorted(numbers[a]) == sorted(numbers[order][b])


def test_sizes_are_about_pipers():
    parts = split(random_keys(20_000), 0.1, 5)
    assert len(parts.test) == 5
    assert len(parts.validation) == pytest.approx(2000, abs=150)  # 3.5 standard deviations


def test_piper_would_validate_on_one():
    numbers = np.full(10, 2**63, np.uint64) + np.arange(10, dtype=np.uint64)
    assert split(numbers, 0.1, 0).validation.tolist() == [0]
    assert split(numbers, 0.0, 0).validation.tolist() == []
    assert split(numbers[:9], 0.1, 0).validation.tolist() == []


def test_a_tiny_corpus_keeps_half_to_train_on_and_says_so(caplog):
    parts = split(np.arange(4, dtype=np.uint64) + np.uint64(2**63), 0.1, 5)
    assert (len(parts.train), len(parts.test)) == (2, 2)
    assert caplog.messages == ["warning: 2 test examples instead of 5: there are only 4 utterances"]
