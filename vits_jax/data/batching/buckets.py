"""Few batch shapes, chosen so that little of them is padding."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Shapes are multiples of this: it costs under 2 % and leaves few candidates to compare.
_MULTIPLE = 8
# One more shape is one more compilation, minutes: it should save this share of the work, which in
# a run of a day is a quarter of an hour.
_WORTH_A_SHAPE = 0.01
# Decoder and discriminators see a segment of each row, however long the row is. A frame of it
# is worth as much as so many others with their phonemes: 8 in bytes moved, 22 in FLOPs, 43 in
# memory (medium; more in the others). The least of them, as the memory of long rows grows with
# their square too, and rows are whole: so no long batch needs more memory than the short ones.
_SEGMENT_WORTH = 8
# Where little room is lost, rows are a multiple of this: other numbers of devices divide them too.
_DIVISIBLE = 4
# Lengths of each kind that buckets may have, where a corpus has more of them. All of LJ Speech's
# are fewer; of longer utterances they are quantiles, the longest among them.
_MOST_PHONEMES, _MOST_FRAMES = 64, 128
_AT_ONCE = 512  # shapes that are looked at together: memory for so many times all of them


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
        """Work per row, in halves of a frame: a phoneme is one half.

        In FLOPs it is 0.55 of a frame, in bytes moved more (docs/performance.md). It matters
        little: if it were a whole frame, these choices would cost 0.2 % more than the best.
        """
        return self.phonemes + 2 * self.frames


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

    Of all such buckets they are those that make the rows' work least (`best_shapes`); there are
    as many as are worth one more shape, with a whole epoch's last batches counted.

    Args:
        phonemes, frames: ``[utterances]``, lengths of each; at least one utterance.
        rows_of: rows of a batch of so many frames.
        num_buckets: most buckets.
        min_frames: least frames of a bucket (the decoder's segment has to fit).
    """
    # Buckets are multiples too, so rounded lengths fit where the lengths do; there are few.
    lengths = np.stack([round_up(phonemes), round_up(np.maximum(frames, min_frames))])
    (phonemes, frames), counts = np.unique(lengths, axis=1, return_counts=True)
    best: tuple[Bucket, ...] = ()
    best_plan = Schedule((), (), 0)
    for shapes in best_shapes(phonemes, frames, counts, num_buckets):
        buckets = tuple(Bucket(p, f, rows_of(f)) for p, f in shapes)
        bucket_of = assign(buckets, phonemes, frames)
        rows = np.bincount(bucket_of, weights=counts, minlength=len(buckets))
        plan = schedule(tuple(rows.astype(np.int64).tolist()), buckets)
        if not best or plan.cost < best_plan.cost * (1 - _WORTH_A_SHAPE):
            best, best_plan = buckets, plan
    return tuple(b for b, batches in zip(best, best_plan.batches, strict=True) if batches)


def best_shapes(
    phonemes: np.ndarray, frames: np.ndarray, counts: np.ndarray, most: int
) -> list[list[tuple[int, int]]]:
    """The cheapest nested shapes for some rows: at most 1, 2, … `most` of them.

    Each row is padded to the first shape that holds it. As each shape holds all that the one
    before holds, what is between two is a difference of two counts, and the cheapest chain of
    shapes up to each is found by dynamic programming over all of them: nothing is cheaper.

    Args:
        phonemes, frames: ``[kinds]``, lengths of each kind of row.
        counts: ``[kinds]``, rows of each kind.
        most: shapes of the last answer.

    Returns:
        Of each answer (phonemes, frames) of its shapes, smallest first.
    """
    widths, lengths = _levels(phonemes, _MOST_PHONEMES), _levels(frames, _MOST_FRAMES)
    at = np.searchsorted(widths, phonemes), np.searchsorted(lengths, frames)
    here = np.zeros((len(widths), len(lengths)), np.int64)  # [P, F]
    np.add.at(here, at, counts)
    # Shapes that something in them fills in each length; others hold no more than those do.
    filled = (here.cumsum(0) > 0) & (here.cumsum(1) > 0)
    p, f = np.nonzero(filled)  # [shapes], by phonemes, then frames
    held = here.cumsum(0).cumsum(1)[p, f]
    cost = np.array([Bucket(w, n, 1).cost for w, n in zip(widths[p], lengths[f], strict=True)])
    least = held * cost  # of all that a shape holds, in as many shapes as the loop has seen
    before: list[np.ndarray] = []
    for _ in range(most - 1):
        newest, came = np.empty_like(least), np.empty_like(least)
        for begin in range(0, len(least), _AT_ONCE):
            to = slice(begin, begin + _AT_ONCE)
            since = slice(0, to.stop)
            nested = (p[since, None] <= p[to]) & (f[since, None] <= f[to])
            work = least[since, None] + (held[to] - held[since, None]) * cost[to]
            work[~nested] = np.iinfo(np.int64).max
            came[to], newest[to] = work.argmin(axis=0), work.min(axis=0)
        least = newest
        before.append(came)
    answers = []
    for number in range(most):
        chain = [len(least) - 1]
        for came in before[:number][::-1]:
            chain.append(int(came[chain[-1]]))
        shapes = {(int(widths[p[i]]), int(lengths[f[i]])) for i in chain}
        answers.append(sorted(_tight(w, n, phonemes, frames) for w, n in shapes))
    return answers


def _levels(lengths: np.ndarray, most: int) -> np.ndarray:
    """The lengths that occur, ascending, or so many quantiles of them, the greatest included."""
    levels = np.unique(lengths)
    if len(levels) > most:
        levels = np.unique(np.quantile(levels, np.linspace(0, 1, most), method="higher"))
    return levels


def _tight(width: int, length: int, phonemes: np.ndarray, frames: np.ndarray) -> tuple[int, int]:
    """A shape without the room that nothing in it needs: quantiles are not always filled."""
    inside = (phonemes <= width) & (frames <= length)
    return int(phonemes[inside].max()), int(frames[inside].max())


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


def schedule(
    counts: tuple[int, ...],
    buckets: tuple[Bucket, ...],
    cost_of: Callable[[Bucket], int] = operator.attrgetter("cost"),
) -> Schedule:
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
            cost = after.cost + batches * bucket.rows * cost_of(bucket)
            results.append(Schedule((batches, *after.batches), (carries, *after.carries), cost))
        return min(results, key=lambda result: result.cost)

    return cheapest(0, 0)


def round_up(lengths: np.ndarray | list[int]) -> np.ndarray:
    """Lengths ``[…]`` as a bucket has them, int64 ``[…]``."""
    return (np.ceil(np.asarray(lengths) / _MULTIPLE) * _MULTIPLE).astype(np.int64)
