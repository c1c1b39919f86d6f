"""Warping against the textbook's recursion."""

from __future__ import annotations

import numpy as np
import pytest

from vits_jax.metrics.alignment import euclidean, manhattan, warp


def _least(distances: np.ndarray) -> float:
    total = np.full(np.add(distances.shape, 1), np.inf)
    total[0, 0] = 0
    for i, row in enumerate(distances):
        for j, distance in enumerate(row):
            total[i + 1, j + 1] = distance + min(total[i, j], total[i, j + 1], total[i + 1, j])
    return float(total[-1, -1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (13, 29), (40, 31)])
def test_the_path_is_one_and_none_is_shorter(shape: tuple[int, int]):
    distances = np.random.default_rng(0).random(shape)
    rows, columns = warp(distances)
    assert (rows[0], columns[0]) == (0, 0)
    assert (rows[-1], columns[-1]) == (shape[0] - 1, shape[1] - 1)
    steps = np.stack([np.diff(rows), np.diff(columns)])
    assert steps.min(initial=0) >= 0
    assert (steps.sum(0) >= 1).all()
    assert steps.max(initial=0) <= 1
    assert distances[rows, columns].sum() == pytest.approx(_least(distances))


def test_what_is_the_same_is_followed_along_the_diagonal():
    sequence = np.random.default_rng(0).normal(size=(30, 3))
    rows, columns = warp(euclidean(sequence, sequence))
    np.testing.assert_array_equal(rows, np.arange(30))
    np.testing.assert_array_equal(columns, np.arange(30))


def test_what_is_drawn_out_is_brought_together():
    sequence = np.random.default_rng(0).normal(size=(12, 3))
    slow = np.repeat(sequence, 3, axis=0)
    rows, columns = warp(euclidean(sequence, slow))
    np.testing.assert_array_equal(rows, columns // 3)


def test_distances():
    a, b = np.asarray([[0.0, 0], [3, 4]]), np.asarray([[0.0, 0], [0, 4], [6, 8]])
    np.testing.assert_allclose(euclidean(a, b), [[0, 4, 10], [5, 3, 5]], atol=1e-7)
    np.testing.assert_allclose(manhattan(a, b), [[0, 2, 7], [3.5, 1.5, 3.5]])
