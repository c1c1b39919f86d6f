"""The batch plan: which utterances are trained on together, in which shape and order.

A plan is a pure function of the dataset's lengths, the seed and the epoch, so every
process computes the same one and loads only its own rows, and a run continues exactly
where it stopped from two numbers: epoch and batch in epoch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vits_jax.data.batching.balance import Balance, Shares, balanced, spread
from vits_jax.data.batching.buckets import (
    Bucket,
    Schedule,
    assign,
    choose_buckets,
    rows_within,
    schedule,
)

if TYPE_CHECKING:
    from vits_jax.data.manifest import Dataset

Batch = dict[str, np.ndarray]


class Lengths(Protocol):
    """What a plan is made of: a `Dataset`, or a `Table` of one."""

    @property
    def samples(self) -> Any:
        """int32 ``[utterances]``, length of the audio."""

    @property
    def id_lengths(self) -> Any:
        """int32 ``[utterances]``, phoneme ids."""


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch, in order: the rows of all of them, one batch after another.

    Attributes:
        buckets: int ``[steps]``, index of each batch's bucket.
        starts: int64 ``[steps + 1]``, where each batch begins in `rows`, and where the last ends.
        rows: int64 ``[all rows]``, rows of the dataset.
        weight: float32 ``[all rows]``: 1, or 0 for a row that repeats another of its batch to
          fill it.
    """

    buckets: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    weight: np.ndarray

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the dataset, int64 ``[rows]``, and their weights, float32 ``[rows]``."""
        part = slice(self.starts[step], self.starts[step + 1])
        return self.rows[part], self.weight[part]

    def used(self, step: int) -> list[int]:
        """Rows of the dataset in one batch, none that only fill it; they are its first."""
        rows, weight = self.batch(step)
        return rows[weight > 0].tolist()


@dataclass(frozen=True)
class Plan:
    """How some rows of a dataset become batches.

    Attributes:
        buckets: the shapes, their rows over all processes; not each of them need occur.
        hop_length: samples per frame.
        seed: of the shuffling; None: always the same order.
        members: int64 ``[…]`` for each bucket: rows of the dataset that fit it, not a smaller one.
        schedule: batches of each bucket.
        padding, phoneme_padding: share of an epoch's frames, and of its phoneme ids, that no
          utterance fills; where speakers have shares, a mean over epochs.
        balance: how an epoch's rows are drawn of the members; None: each is in it once.
    """

    buckets: tuple[Bucket, ...]
    hop_length: int
    seed: int | None
    members: tuple[np.ndarray, ...]
    schedule: Schedule
    padding: float
    phoneme_padding: float
    balance: Balance | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of every epoch in each bucket."""
        return tuple(map(len, self.members)) if self.balance is None else self.balance.counts

    @property
    def steps_per_epoch(self) -> int:
        """Batches of every epoch."""
        return sum(self.schedule.batches)

    @property
    def used_buckets(self) -> tuple[Bucket, ...]:
        """The shapes that occur, for each of which programs are compiled."""
        return tuple(b for b, n in zip(self.buckets, self.schedule.batches, strict=True) if n)

    def epoch(self, epoch: int) -> EpochPlan:
        """The batches of an epoch: each of its rows in exactly one of them, with weight 1."""
        random = None if self.seed is None else np.random.default_rng([self.seed, epoch])
        all_members: Sequence[np.ndarray] = self.members
        if self.balance is not None and random is not None:
            all_members = self.balance.members(epoch, random)
        rows, weight = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        carried = np.empty(0, np.int64)
        for bucket, members, batches, carries in zip(
            self.buckets, all_members, self.schedule.batches, self.schedule.carries, strict=True
        ):
            pool, size = np.concatenate([carried, members]), bucket.rows
            if random is not None and self.balance is not None:
                pool = spread(pool, random)
            elif random is not None:
                random.shuffle(pool)
            used = min(len(pool), batches * size)
            carried = pool[used:] if carries else carried[:0]
            if batches:
                # Only the last batch can lack rows, and it has one at least to repeat.
                index = np.arange(batches * size)
                index[-size:] = index[-size] + np.arange(size) % (used - (batches - 1) * size)
                rows.append(pool[index])
                weight.append((np.arange(batches * size) < used).astype(np.float32))
        buckets = np.repeat(np.arange(len(self.buckets)), self.schedule.batches)
        sizes = np.array([bucket.rows for bucket in self.buckets])[buckets]
        steps = self.steps_per_epoch
        order = np.arange(steps) if random is None else random.permutation(steps)
        ends, starts = np.cumsum(sizes), np.concatenate([[0], np.cumsum(sizes[order])])
        # Each batch's rows move together, from where they stand to where the order puts them.
        moved = np.repeat((ends - sizes)[order] - starts[:-1], sizes[order])
        index = np.arange(starts[-1]) + moved
        return EpochPlan(
            buckets[order], starts, np.concatenate(rows)[index], np.concatenate(weight)[index]
        )


def make_plan(
    dataset: Lengths,
    rows: np.ndarray,
    *,
    batch_size: int | None = None,
    batch_frames: int | None = None,
    devices: int = 1,
    hop_length: int,
    segment_frames: int,
    num_buckets: int,
    seed: int,
    shares: Shares | None = None,
) -> Plan:
    """The plan of the rows that are trained on, shuffled anew each epoch.

    Args:
        dataset: gives the lengths.
        rows: int ``[…]``, rows to train on; at least one.
        batch_size: rows of every batch, over all processes; or
        batch_frames: frames of a batch, over all processes: long utterances make batches of
          fewer rows (`rows_within`). One of the two.
        devices: rows within `batch_frames` are a multiple of it.
        hop_length: samples per frame.
        segment_frames: frames that the decoder generates; every bucket holds so many.
        num_buckets: most shapes.
        seed: of the shuffling.
        shares: rows of an epoch of each speaker (default: an epoch has each row once).

    Raises:
        ValueError: not one of `batch_size` and `batch_frames`.
    """

    def rows_of(frames: int) -> int:
        if batch_size is not None and batch_frames is None:
            return batch_size
        if batch_frames is not None and batch_size is None:
            return rows_within(batch_frames, frames, segment_frames, devices)
        raise ValueError(f"batch_size {batch_size}, batch_frames {batch_frames}: expected one")

    lengths = lengths_of(dataset, rows, hop_length)
    if shares is not None:
        drawn = shares.drawn(rows)
        like = shares.like_an_epoch(drawn, *lengths_of(dataset, drawn, hop_length))
        lengths = lengths_of(dataset, like, hop_length)
    buckets = choose_buckets(*lengths, rows_of, num_buckets, segment_frames)
    return plan_in(buckets, dataset, rows, hop_length=hop_length, seed=seed, shares=shares)


def validation_plan(plan: Plan, dataset: Lengths, rows: np.ndarray) -> tuple[Plan, np.ndarray]:
    """The plan of other rows, int ``[…]``, in the same shapes, and those of them that fit none.

    It is never shuffled, and uses only shapes that training compiles. Without rows it has no steps.
    """
    phonemes, frames = lengths_of(dataset, rows, plan.hop_length)
    largest = plan.used_buckets[-1]
    fits = (phonemes <= largest.phonemes) & (frames <= largest.frames)
    held = plan_in(plan.used_buckets, dataset, rows[fits], hop_length=plan.hop_length, seed=None)
    return held, rows[~fits]


def plan_in(
    buckets: tuple[Bucket, ...],
    dataset: Lengths,
    rows: np.ndarray,
    *,
    hop_length: int,
    seed: int | None,
    epoch: Schedule | None = None,
    shares: Shares | None = None,
) -> Plan:
    """The plan of some rows, int ``[…]``, in given shapes, with a schedule (default: the cheapest).

    Raises:
        ValueError: a row fits no bucket.
    """
    rows = rows if shares is None else shares.drawn(rows)
    often = np.ones(len(rows)) if shares is None else shares.often(rows)
    phonemes, frames = lengths_of(dataset, rows, hop_length)
    bucket_of = assign(buckets, phonemes, frames)
    members = tuple(np.asarray(rows, np.int64)[bucket_of == i] for i in range(len(buckets)))
    balance = None
    if shares is not None and seed is not None:
        balance = balanced(shares, rows, bucket_of, len(buckets), seed)
    if epoch is None:
        counts = tuple(map(len, members)) if balance is None else balance.counts
        epoch = schedule(counts, buckets)
    rows_of = [n * b.rows for n, b in zip(epoch.batches, buckets, strict=True)]
    padding = _padding(frames * often, rows_of, [b.frames for b in buckets])
    phoneme_padding = _padding(phonemes * often, rows_of, [b.phonemes for b in buckets])
    return Plan(buckets, hop_length, seed, members, epoch, padding, phoneme_padding, balance)


def _padding(lengths: np.ndarray, rows: list[int], sizes: list[int]) -> float:
    """Share of so many rows of each size that the lengths, ``[utterances]``, do not fill."""
    padded = sum(n * size for n, size in zip(rows, sizes, strict=True))
    return 1 - float(lengths.sum()) / padded if padded else 0.0


def lengths_of(
    dataset: Lengths, rows: np.ndarray, hop_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Phoneme ids and frames of each row, int ``[rows]``; a partial frame needs a whole one."""
    samples = np.asarray(dataset.samples)[rows].astype(np.int64)
    return np.asarray(dataset.id_lengths)[rows], -(-samples // hop_length)


def load_batch(
    dataset: Dataset,
    bucket: Bucket,
    rows: Sequence[int] | np.ndarray,
    weight: np.ndarray,
    hop_length: int,
) -> Batch:
    """Read some rows and pad them with zeros to a bucket's shape.

    Returns:
        ``phoneme_ids`` int32 ``[rows, phonemes]``, ``phoneme_lengths`` int32 ``[rows]``,
        ``audio`` int16 ``[rows, frames · hop_length]``, ``audio_lengths`` (samples) int32
        ``[rows]``, ``speaker_ids`` int32 ``[rows]``, ``weight`` float32 ``[rows]``.
    """
    phoneme_ids = np.zeros((len(rows), bucket.phonemes), np.int32)
    audio = np.zeros((len(rows), bucket.frames * hop_length), np.int16)
    for i, row in enumerate(rows):
        ids, samples = dataset.phoneme_ids(row), dataset.audio(row)
        phoneme_ids[i, : len(ids)] = ids
        audio[i, : len(samples)] = samples
    return {
        "phoneme_ids": phoneme_ids,
        "phoneme_lengths": dataset.id_lengths[rows].astype(np.int32),
        "audio": audio,
        "audio_lengths": dataset.samples[rows].astype(np.int32),
        "speaker_ids": dataset.speaker_ids[rows].astype(np.int32),
        "weight": np.asarray(weight, np.float32),
    }


def batches(
    dataset: Dataset,
    plan: Plan,
    epoch: int = 0,
    start_batch: int = 0,
    num_batches: int | None = None,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[Bucket, Batch]]:
    """Batches in order, read ahead by threads.

    Args:
        dataset: to read from.
        plan: of the batches.
        epoch, start_batch: the first batch, as positions in the plan.
        num_batches: how many, into later epochs if need be (default: the rest of the epoch).
        process_index, process_count: this process gets rows
          ``[process_index · n : (process_index + 1) · n]`` of each batch, n = rows / processes.

    Yields:
        The batch's shape, and this process's rows of it.

    Raises:
        ValueError: the rows cannot be shared out over the processes.
    """
    if num_batches is None:
        num_batches = plan.steps_per_epoch - start_batch
    if num_batches <= 0:
        return
    source = Source(
        load=functools.partial(load_batch, dataset),
        plan=plan,
        first=epoch * plan.steps_per_epoch + start_batch,
        length=num_batches,
        per_epoch=plan.steps_per_epoch,
        process_index=process_index,
        process_count=process_count,
    )
    yield from read_ahead(source)


def read_ahead(source: Source, num_threads: int = 4, prefetch: int = 8) -> Any:
    """What a source gives, in order, as a Grain dataset to iterate over.

    Args:
        source: see `Source`.
        num_threads: that read. One reads 8,000 seconds of speech a second from a fast disk
          (docs/performance.md); more of them hide a slow one's delays.
        prefetch: batches held ready.
    """
    import grain  # takes seconds to import: only where batches are read

    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    return grain.MapDataset.source(source).to_iter_dataset(options)


class Load(Protocol):
    """What is made of some rows of a batch: `load_batch` of a dataset, say."""

    def __call__(
        self, bucket: Bucket, rows: np.ndarray, weight: np.ndarray, hop_length: int
    ) -> Batch:
        """Arrays whose first dimension is the rows."""


@dataclass(frozen=True)
class Source:
    """Random access to a process's part of consecutive batches, for Grain.

    Attributes:
        load: makes a batch of its rows.
        plan: of the batches.
        first: the first batch, with `per_epoch` of them in each epoch before.
        length: how many.
        per_epoch: batches that are used of each epoch, its first ones.
        process_index, process_count: see `batches`.

    Raises:
        ValueError: the rows cannot be shared out over the processes.
    """

    load: Load
    plan: Plan
    first: int
    length: int
    per_epoch: int
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        for bucket in self.plan.used_buckets:
            if bucket.rows % self.process_count:
                raise ValueError(
                    f"{bucket.rows} rows do not divide by {self.process_count} processes"
                )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Bucket, Batch]:
        epoch, step = divmod(self.first + int(index), self.per_epoch)
        planned = self._epoch(epoch)
        bucket = self.plan.buckets[planned.buckets[step]]
        size = bucket.rows // self.process_count
        part = slice(self.process_index * size, (self.process_index + 1) * size)
        rows, weight = (array[part] for array in planned.batch(step))
        return bucket, self.load(bucket, rows, weight, self.plan.hop_length)

    @functools.cached_property
    def _epoch(self) -> functools._lru_cache_wrapper[EpochPlan]:
        # Two: threads read ahead into the next epoch while this one is not done.
        return functools.lru_cache(maxsize=2)(self.plan.epoch)
