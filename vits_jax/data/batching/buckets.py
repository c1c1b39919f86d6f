"""Few batch shapes, chosen so that little of them is padding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Shapes are multiples of this: it costs under 2 % and leaves few candidates to compare.
_MULTIPLE = 8
# One more shape is one more compilation: it should save this share of the work.
_WORTH_A_SHAPE = 0.02
# Decoder and discriminators see a segment of each row, however long the row is. A frame of it
# is worth as much as so many others with their phonemes: 8 in bytes moved, 22 in FLOPs, 43 in
# memory (medium; more in the others). The least of them, as the memory of long rows grows with
# their square too, and rows are whole: so no long batch needs more memory than the short ones.
_SEGMENT_WORTH = 8
# Where little room is lost, rows are a multiple of this: other numbers of devices divide them too.
_DIVISIBLE = 4


@dataclass(frozen=True, order=True)
class Bucket:
    """The shape of a batch: so many rows, each of at most so many phoneme ids and frames."""

    phonemes: int
    frames: int
    rows: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, phonemes, frames: what programs are compiled for."""
        return self.rows, self.phonemes, self.frames

    @property
    def cost(self) -> int:
        """Work per row. A phoneme costs 0.6 frames in FLOPs and 3 in bytes moved: call it one."""
        return self.phonemes + self.frames


@dataclass(frozen=True)
class Schedule:
    """How many batches each bucket makes per epoch.

    Attributes:
        batches: of each bucket.
        carries: whether a bucket's last rows, fewer than a batch, go up to the next one
          (else they make a batch of their own, filled with rows of weight 0).
        cost: work of an epoch, in the unit of `Bucket.cost`.
    """

    batches: tuple[int, ...]
    carries: tuple[bool, ...]
    cost: int


def rows_within(batch_frames: int, frames: int, segment_frames: int, devices: int) -> int:
    """Rows of a batch within a budget of frames, a multiple of the devices; at least one each.

    Args:
        batch_frames: the budget. A row counts for its frames, and for its share of the work that
          does not depend on them.
        frames: that each row is padded to.
        segment_frames: frames that the decoder generates of each row.
        devices: that share the rows.
    """
    room = batch_frames // (frames + _SEGMENT_WORTH * segment_frames)
    unit = devices
    while unit < _DIVISIBLE and 4 * unit <= room:
        unit *= 2
    return max(room // unit, 1) * unit


def choose_buckets(
    phonemes: np.ndarray,
    frames: np.ndarray,
    rows_of: Callable[[int], int],
    num_buckets: int,
    min_frames: int,
) -> tuple[Bucket, ...]:
    """At most `num_buckets` buckets, each at least as large as the one before in both lengths.

    Utterances are lined up by ``max(frames, ratio · phonemes)`` and cut into groups by
    dynamic programming over padded work; the ratio and the number of groups are those
    that make a whole epoch, last batches included, cheapest.

    Args:
        phonemes, frames: ``[utterances]``, lengths of each; at least one utterance.
        rows_of: rows of a batch of so many frames.
        num_buckets: most buckets.
        min_frames: least frames of a bucket (the decoder's segment has to fit).
    """
    ratios = np.unique(np.quantile(frames / phonemes, np.linspace(0, 0.6, 16)))
    # Buckets are multiples too, so rounded lengths fit where the lengths do; there are few.
    lengths = np.stack([round_up(phonemes), round_up(np.maximum(frames, min_frames))])
    (phonemes, frames), counts = np.unique(lengths, axis=1, return_counts=True)

    def plan(buckets: tuple[Bucket, ...]) -> Schedule:
        bucket_of = assign(buckets, phonemes, frames)
        rows = np.bincount(bucket_of, weights=counts, minlength=len(buckets))
        return schedule(tuple(rows.astype(np.int64).tolist()), buckets)

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


def assign(buckets: tuple[Bucket, ...], phonemes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Index of the first bucket that each utterance fits, int ``[utterances]``.

    Raises:
        ValueError: an utterance fits none.
    """
    by_phonemes = np.searchsorted([b.phonemes for b in buckets], phonemes)
    by_frames = np.searchsorted([b.frames for b in buckets], frames)
    index = np.maximum(by_phonemes, by_frames)
    if len(index) and index.max() >= len(buckets):
        raise ValueError(f"an utterance is larger than the largest bucket, {buckets[-1]}")
    return index


def schedule(counts: tuple[int, ...], buckets: tuple[Bucket, ...]) -> Schedule:
    """The cheapest way to make batches of so many utterances per bucket.

    A bucket above all utterances makes none: its shape would have to be compiled.
    """
    last = max((i for i, count in enumerate(counts) if count), default=-1)

    @functools.cache
    def cheapest(index: int, carried: int) -> Schedule:
        if index == len(buckets):
            return Schedule((), (), 0)
        bucket = buckets[index]
        full, rest = divmod(counts[index] + carried, bucket.rows)
        options = [(full + bool(rest), False, 0)]
        if rest and index < last:
            options.append((full, True, rest))
        results = []
        for batches, carries, going_up in options:
            after = cheapest(index + 1, going_up)
            cost = after.cost + batches * bucket.rows * bucket.cost
            results.append(Schedule((batches, *after.batches), (carries, *after.carries), cost))
        return min(results, key=lambda result: result.cost)

    return cheapest(0, 0)


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


def round_up(lengths: np.ndarray | list[int]) -> np.ndarray:
    """Lengths ``[…]`` as a bucket has them, int64 ``[…]``."""
    return (np.ceil(np.asarray(lengths) / _MULTIPLE) * _MULTIPLE).astype(np.int64)
