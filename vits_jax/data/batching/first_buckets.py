"""Buckets as the first runs chose them.

Checkpoints of before buckets were kept say only which digest data and buckets had together:
these choose the same again. Nothing else should use them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vits_jax.data.batching.buckets import Bucket, Schedule, assign, round_up, schedule

_WORTH_A_SHAPE = 0.02


def first_cost(bucket: Bucket) -> int:
    """Work per row, as it was counted."""
    return bucket.phonemes + bucket.frames


def choose_first_buckets(
    phonemes: np.ndarray,
    frames: np.ndarray,
    rows_of: Callable[[int], int],
    num_buckets: int,
    min_frames: int,
) -> tuple[Bucket, ...]:
    """See `choose_buckets`.

    Utterances are lined up by ``max(frames, ratio · phonemes)`` and cut into groups by
    dynamic programming over padded work; the ratio and the number of groups are those
    that make a whole epoch, last batches included, cheapest.
    """
    ratios = np.unique(np.quantile(frames / phonemes, np.linspace(0, 0.6, 16)))
    # Buckets are multiples too, so rounded lengths fit where the lengths do; there are few.
    lengths = np.stack([round_up(phonemes), round_up(np.maximum(frames, min_frames))])
    (phonemes, frames), counts = np.unique(lengths, axis=1, return_counts=True)

    def plan(buckets: tuple[Bucket, ...]) -> Schedule:
        bucket_of = assign(buckets, phonemes, frames)
        rows = np.bincount(bucket_of, weights=counts, minlength=len(buckets))
        return schedule(tuple(rows.astype(np.int64).tolist()), buckets, first_cost)

    candidates = [_cuts(phonemes, frames, counts, rows_of, ratio, num_buckets) for ratio in ratios]
    best: tuple[Bucket, ...] = ()
    best_cost = np.inf
    for same_number in zip(*candidates, strict=True):  # one bucket, then two, …
        buckets = min(same_number, key=lambda buckets: plan(buckets).cost)
        cost = plan(buckets).cost
        if cost < best_cost * (1 - _WORTH_A_SHAPE):
            best, best_cost = buckets, cost
    used = plan(best).batches
    return tuple(bucket for bucket, batches in zip(best, used, strict=True) if batches)


def _cuts(
    phonemes: np.ndarray,
    frames: np.ndarray,
    counts: np.ndarray,
    rows_of: Callable[[int], int],
    ratio: float,
    most: int,
) -> list[tuple[Bucket, ...]]:
    """The best 1, 2, … `most` groups in the order of ``max(frames, ratio · phonemes)``."""
    sizes = np.maximum(frames, np.ceil(ratio * phonemes))
    levels = np.unique(sizes)
    if len(levels) > 512:  # very long utterances: compare quantiles, the longest among them
        levels = np.unique(np.quantile(levels, np.linspace(0, 1, 512), method="higher"))
    level_of = np.searchsorted(levels, sizes)
    rows = np.bincount(level_of, weights=counts)
    shapes = []
    for ends in _best_ends(levels * (1 + 1 / ratio), rows, most):
        group_of = np.searchsorted(ends, level_of)
        groups = range(len(ends))
        # A later group holds what is larger in one length: let it be as large in both.
        widest = np.maximum.accumulate([phonemes[group_of == g].max() for g in groups])
        longest = np.maximum.accumulate([frames[group_of == g].max() for g in groups])
        sizes = {(int(p), int(f)) for p, f in zip(widest, longest, strict=True)}
        shapes.append(tuple(Bucket(p, f, rows_of(f)) for p, f in sorted(sizes)))
    return shapes


def _best_ends(costs: np.ndarray, rows: np.ndarray, most: int) -> list[list[int]]:
    """The cheapest cuts of a line of levels into at most 1, 2, … `most` groups.

    Args:
        costs: ``[levels]``, ascending: work of a row that is padded to the level.
        rows: ``[levels]``, rows at each level, none of them 0.
        most: groups of the last cut.

    Returns:
        For each cut, the last level of each of its groups.
    """
    before = np.concatenate([[0.0], np.cumsum(rows)])
    # [start, end]: work of a group of the levels start … end, where that is a group.
    group = (before[None, 1:] - before[:-1, None]) * costs[None, :]
    group[group <= 0] = np.inf
    # least[n]: work of the first n levels, in at most so many groups as the loop has seen.
    least = np.concatenate([[0.0], before[1:] * costs])
    starts = [np.zeros(len(costs), np.int64)]
    for _ in range(most - 1):
        newest = least[:-1, None] + group
        starts.append(newest.argmin(axis=0))
        least = np.concatenate([[0.0], newest.min(axis=0)])
    cuts = []
    for number in range(most):
        ends: list[int] = []
        end = len(costs)
        for start in starts[number::-1]:
            if end:
                ends.append(end - 1)
                end = int(start[end - 1])
        cuts.append(ends[::-1])
    return cuts
