"""Epochs in which each speaker has a share of its own, rather than each utterance once.

A speaker's utterances are walked in laps: in each lap every one of them once, in another order,
and an epoch takes up the walk where the one before left it. So all of a speaker's are heard
equally often, and where an epoch's walk begins follows from its number alone.

How many of an epoch's rows are long would change with where the walks are, and with it the number
of batches. So each lap has long and short utterances at the same places, evenly mixed, and a
bucket gets as many rows in every epoch as it may ever need: what is not long goes there too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_OF_LAPS = 1  # apart from the numbers of `Plan.epoch`, which are of a seed and an epoch


@dataclass(frozen=True)
class Shares:
    """Rows that each speaker has in an epoch.

    Attributes:
        speakers: int ``[utterances]``, whose each is.
        each: int64 ``[speakers]``, rows of every epoch.
    """

    speakers: np.ndarray
    each: np.ndarray

    def drawn(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows, int ``[…]``, whose speakers have a share."""
        return rows[self.each[self.speakers[rows]] > 0]

    def often(self, rows: np.ndarray) -> np.ndarray:
        """How often each of a run's rows, int ``[rows]``, is heard in an epoch: float64 ``[rows]``,
        a mean over epochs."""
        speakers = self.speakers[rows]
        return self.each[speakers] / np.bincount(speakers, minlength=len(self.each))[speakers]

    def like_an_epoch(
        self, rows: np.ndarray, phonemes: np.ndarray, frames: np.ndarray
    ) -> np.ndarray:
        """Rows, some repeated and some missing, of lengths as an epoch has them, int ``[…]``.

        Args:
            rows: int ``[rows]``, of a run.
            phonemes, frames: ``[rows]``, their lengths; the largest of both are there.
        """
        order = np.lexsort((phonemes, frames))
        until = np.floor(np.cumsum(self.often(rows)[order]) + 0.5).astype(np.int64)
        times = np.empty(len(rows), np.int64)
        times[order] = np.diff(until, prepend=0)
        for lengths in (phonemes, frames):
            times[lengths.argmax()] = max(times[lengths.argmax()], 1)
        return np.repeat(rows, times)


def apportioned(weights: Sequence[float], total: int) -> np.ndarray:
    """So many rows in proportion to the weights, int64 ``[weights]``, by largest remainders.

    Each is less than one from its exact share.

    Args:
        weights: finite, at least 0, and not all 0.
        total: what the shares sum to.
    """
    most = max(weights)
    whole = math.fsum(weight / most for weight in weights)  # the same on every machine
    exact = np.array([total * (weight / most) / whole for weight in weights])
    shares = np.floor(exact).astype(np.int64)
    left = total - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:left]] += 1
    return shares


@dataclass(frozen=True)
class _Walk:
    """A speaker's laps.

    Attributes:
        speaker: whose.
        each: rows of every epoch.
        rows: int64 ``[utterances]``, rows of the dataset, by bucket.
        buckets: int64 ``[utterances]``, theirs.
        places: int64 ``[utterances]``, places in a lap: those of the first bucket, of the next …
    """

    speaker: int
    each: int
    rows: np.ndarray
    buckets: np.ndarray
    places: np.ndarray

    def most(self, bucket: int) -> int:
        """Rows of this bucket or larger ones that an epoch may have."""
        laps, rest = divmod(self.each, len(self.rows))
        large = np.zeros(len(self.rows), np.int64)
        large[self.places] = self.buckets >= bucket
        before = np.concatenate([[0], np.cumsum(np.tile(large, 2))])
        # Where an epoch may begin in a lap.
        begins = np.arange(0, len(self.rows), math.gcd(self.each, len(self.rows)))
        return laps * int(large.sum()) + int((before[begins + rest] - before[begins]).max())

    def epoch(self, epoch: int, seed: int) -> np.ndarray:
        """Indices into `rows` of what an epoch hears, int64 ``[each]``, sorted by lap."""
        size = len(self.rows)
        first, last = epoch * self.each, (epoch + 1) * self.each
        parts = [self._lap(first // size, seed)[first % size :][: self.each]]
        begun = last // size
        if begun > first // size:
            # Of whole laps the order does not count: an epoch is shuffled.
            parts += [np.arange(size)] * (begun - first // size - 1)
            parts += [self._lap(begun, seed)[: last % size]]
        return np.concatenate(parts)

    def _lap(self, lap: int, seed: int) -> np.ndarray:
        random = np.random.default_rng([seed, lap, self.speaker, _OF_LAPS])
        order = np.empty(len(self.rows), np.int64)
        order[self.places] = np.lexsort((random.random(len(self.rows)), self.buckets))
        return order


@dataclass(frozen=True)
class Balance:
    """The rows of each epoch of a run, in which speakers have their shares.

    Attributes:
        walks: of the speakers.
        counts: rows of each bucket, the same in every epoch.
        seed: of the laps' orders.
    """

    walks: tuple[_Walk, ...]
    counts: tuple[int, ...]
    seed: int

    @property
    def each(self) -> dict[int, int]:
        """Rows of every epoch by speaker; who has none is not there."""
        return {walk.speaker: walk.each for walk in self.walks}

    def members(self, epoch: int, random: np.random.Generator) -> list[np.ndarray]:
        """Rows of the dataset for each bucket in an epoch, int64: they fit it, or a smaller one.

        Args:
            random: chooses those that go up to a larger bucket.
        """
        drawn = [walk.epoch(epoch, self.seed) for walk in self.walks]
        rows = np.concatenate([walk.rows[i] for walk, i in zip(self.walks, drawn, strict=True)])
        buckets = np.concatenate(
            [walk.buckets[i] for walk, i in zip(self.walks, drawn, strict=True)]
        )
        order = random.permutation(len(rows))
        largest_first = order[np.argsort(-buckets[order], kind="stable")]
        ends = np.cumsum(self.counts[::-1])[:-1]
        return np.split(rows[largest_first], ends)[::-1]


def balanced(shares: Shares, rows: np.ndarray, buckets: np.ndarray, of: int, seed: int) -> Balance:
    """How shares are drawn.

    Args:
        shares: of the speakers.
        rows: int ``[rows]``, to draw from: those that `Shares.drawn` leaves.
        buckets: int ``[rows]``, index of the first bucket that each fits.
        of: so many buckets.
        seed: of the laps' orders.
    """
    order = np.lexsort((buckets, shares.speakers[rows]))  # by speaker, then bucket
    rows, buckets = np.asarray(rows, np.int64)[order], np.asarray(buckets, np.int64)[order]
    speakers, begins = np.unique(shares.speakers[rows], return_index=True)
    walks = tuple(
        _Walk(int(speaker), int(shares.each[speaker]), some, of_some, _mixed(of_some))
        for speaker, some, of_some in zip(
            speakers, np.split(rows, begins[1:]), np.split(buckets, begins[1:]), strict=True
        )
    )
    # An epoch never has more rows of a bucket and above than this. The first one holds all.
    most = [sum(walk.most(bucket) for walk in walks) for bucket in range(of)] + [0]
    counts = tuple(here - above for here, above in itertools.pairwise(most))
    return Balance(walks, counts, seed)


def _mixed(buckets: np.ndarray) -> np.ndarray:
    """Places in a lap, int64 ``[utterances]``, that spread every bucket's evenly over it.

    Args:
        buckets: ascending, ``[utterances]``.
    """
    _, begins, sizes = np.unique(buckets, return_index=True, return_counts=True)
    number = np.arange(len(buckets)) - np.repeat(begins, sizes)
    order = np.argsort((number + 0.5) / np.repeat(sizes, sizes), kind="stable")
    places = np.empty(len(buckets), np.int64)
    places[order] = np.arange(len(buckets))
    return places


def spread(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """In random order, int64 ``[rows]``, what is there several times evenly spread over all."""
    kinds, copies = np.unique(rows, return_counts=True)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    at = (np.repeat(random.random(len(kinds)), copies) + number) / np.repeat(copies, copies)
    return np.repeat(kinds, copies)[np.argsort(at, kind="stable")]
