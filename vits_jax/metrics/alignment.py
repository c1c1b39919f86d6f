"""Two sequences brought to one time: dynamic time warping."""

from __future__ import annotations

import numpy as np


def warp(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The path of least total distance (Sakoe and Chiba 1978, symmetric, no weights, no limits).

    Steps go one frame on in the one, in the other, or in both; where they cost the same, both.

    Args:
        distances: float ``[N, M]`` between every frame of the one and of the other.

    Returns:
        int ``[path]`` rows and ``[path]`` columns, from (0, 0) to (N - 1, M - 1).
    """
    rows, columns = distances.shape
    # Diagonal d holds the cells (i, d - i): none needs another of the same one, so NumPy takes
    # each at once. Cells of it are counted by their row.
    steps = np.zeros((rows + columns - 1, rows), np.uint8)
    unreachable = np.full(rows + 1, np.inf)  # an entry more in front, for the row before the first
    before, before_that = unreachable, unreachable
    for d in range(rows + columns - 1):
        first, last = max(0, d - columns + 1), min(rows, d + 1)
        i = np.arange(first, last)
        options = np.stack(
            [
                before_that[first:last],  # from (i - 1, j - 1)
                before[first:last],  # from (i - 1, j)
                before[first + 1 : last + 1],  # from (i, j - 1)
            ]
        )
        best = np.argmin(options, axis=0)
        steps[d, first:last] = best
        total = unreachable.copy()
        least = options[best, i - first] if d else np.zeros(1)
        total[first + 1 : last + 1] = distances[i, d - i] + least
        before, before_that = total, before
    i, j = rows - 1, columns - 1
    path = [(i, j)]
    while i or j:
        step = steps[i + j, i]
        i, j = i - (step != 2), j - (step != 1)
        path.append((i, j))
    path.reverse()
    there, here = np.asarray(path).T
    return there, here


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``‖a_i - b_j‖`` of ``[N, D]`` and ``[M, D]``: float ``[N, M]``."""
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def manhattan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of ``|a_i - b_j|`` over the D numbers of each: float ``[N, M]``."""
    total = np.zeros((len(a), len(b)))
    for x, y in zip(a.T, b.T):  # one number at a time: [N, M, D] would be large
        total += np.abs(x[:, None] - y[None])
    return total / a.shape[1]
