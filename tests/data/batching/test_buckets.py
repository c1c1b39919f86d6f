"""Shapes: the cheapest there are, and little padding for speech as people record it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.batching.test_batches import HOP, SEGMENT
from vits_jax.benchmarks.reading import like_lj_speech
from vits_jax.data.batching import buckets as module
from vits_jax.data.batching.batches import Plan, make_plan
from vits_jax.data.batching.buckets import Bucket, best_shapes


def work(shapes: list[tuple[int, int]], kinds: np.ndarray) -> float:
    """Of all rows, each in the first shape that holds it; infinite if one fits none."""
    total = 0.0
    for phonemes, frames, count in kinds:
        holding = [Bucket(p, f, 1).cost for p, f in shapes if p >= phonemes and f >= frames]
        total += count * (holding[0] if holding else np.inf)
    return total


kinds_of_rows = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=7
)


@settings(deadline=None, max_examples=60)
@given(kinds_of_rows, st.integers(1, 4))
def test_no_nested_shapes_are_cheaper(kinds, most):
    """Held against all there are."""
    table = np.array(kinds)
    lattice = sorted(itertools.product(set(table[:, 0].tolist()), set(table[:, 1].tolist())))
    for number, shapes in enumerate(best_shapes(*table.T, most), start=1):
        assert 1 <= len(shapes) <= number
        chains = (
            chain
            for size in range(1, number + 1)
            for chain in itertools.combinations(lattice, size)
            if all(a[1] <= b[1] for a, b in itertools.pairwise(chain))
        )
        assert work(shapes, table) == min(work(list(chain), table) for chain in chains)


def test_lengths_of_many_kinds_are_looked_at_by_quantiles(monkeypatch):
    random = np.random.default_rng(0)
    frames = random.integers(1, 2000, 500)
    phonemes = np.maximum(1, (frames * random.uniform(0.2, 0.4, 500)).astype(int))
    ones = np.ones(500, int)
    kinds = np.stack([phonemes, frames, ones], axis=1)
    coarse = work(best_shapes(phonemes, frames, ones, 4)[-1], kinds)
    monkeypatch.setattr(module, "_MOST_PHONEMES", 2000)
    monkeypatch.setattr(module, "_MOST_FRAMES", 2000)
    exact = work(best_shapes(phonemes[:200], frames[:200], ones[:200], 4)[-1], kinds[:200])
    monkeypatch.undo()
    few = work(best_shapes(phonemes[:200], frames[:200], ones[:200], 4)[-1], kinds[:200])
    assert np.isfinite(coarse)
    assert exact <= few < 1.02 * exact


def plan(num_buckets: int) -> Plan:
    return make_plan(
        like_lj_speech(),
        np.arange(13_100),
        batch_size=32,
        hop_length=HOP,
        segment_frames=SEGMENT,
        num_buckets=num_buckets,
        seed=1,
    )


@pytest.mark.parametrize(
    ("num_buckets", "frames", "phonemes"), [(1, 0.36, 0.52), (4, 0.14, 0.25), (6, 0.1, 0.2)]
)
def test_padding_of_a_corpus_like_lj_speech(num_buckets, frames, phonemes):
    planned = plan(num_buckets)
    assert len(planned.used_buckets) == num_buckets
    assert planned.padding < frames
    assert planned.phoneme_padding < phonemes
