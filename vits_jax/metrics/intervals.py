"""How sure a mean is: bootstrap intervals (Efron 1979)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and the ends of its interval; NaN where there are too few numbers to say."""

    mean: float
    low: float
    high: float
    clips: int  # how many numbers it is the mean of


def interval(
    values: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """The mean of some numbers, and a percentile bootstrap interval of it.

    The numbers are drawn again with replacement, `resamples` times; the interval holds the
    middle `level` of the means. NaN are left out; of one number there is no interval.

    Args:
        values: float ``[clips]``.
        seed: of the drawing; the same one gives the same interval.
        resamples: how often.
        level: share of the means within.
    """
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean, np.nan, np.nan, 1)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    most = max(1, 2**20 // len(numbers))  # so many draws are held at once
    for start in range(0, resamples, most):
        some = means[start : start + most]
        some[:] = numbers[random.integers(len(numbers), size=(len(some), len(numbers)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(numbers))


def difference(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> Interval:
    """The mean of ``a - b``, clip by clip, and its interval: pairs are drawn together.

    Args:
        a, b: float ``[clips]`` of the same clips in the same order; where one is NaN, the pair
          is left out.
        seed: of the drawing.
    """
    return interval(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed=seed)
