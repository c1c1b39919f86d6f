"""What is known of a corpus or a prepared directory, for the terminal, JSON and a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vits_jax.data.batching.batches import make_plan, validation_plan
from vits_jax.data.batching.buckets import Bucket
from vits_jax.data.corpora.table import Table, usual_rate, warned_of
from vits_jax.data.split import split
from vits_jax.data.unusable import LeftOut, describe

_NAMED = 20  # rows that the summary in short names, of those it only warns of


@dataclass(frozen=True)
class Training:
    """What training on it would be like.

    Attributes:
        batch_size, batch_frames: of a step, one of the two.
        utterances: that are trained on; the others are held out.
        unheard: that are held out and fit no batch: validation does without them.
        steps_per_epoch: batches.
        buckets: each shape, and its batches per epoch.
        padding, phoneme_padding: share of an epoch's frames, and of its phoneme ids, that no
          utterance fills.
        memory: bytes on the device that one batch of the largest shape needs; None: not known.
    """

    batch_size: int | None
    batch_frames: int | None
    utterances: int
    unheard: int
    steps_per_epoch: int
    buckets: list[tuple[Bucket, int]]
    padding: float
    phoneme_padding: float
    memory: int | None = None

    @property
    def title(self) -> str:
        """How batches are made."""
        if self.batch_frames is None:
            return f"batches of {self.batch_size}"
        return f"batches within {self.batch_frames} frames"


@dataclass(frozen=True)
class Report:
    """What is known of some data: ``used + len(left_out) == rows``.

    Attributes:
        source: the directory.
        rows, used: of it.
        seconds: of the audio that is used.
        sample_rate: hertz.
        speakers: utterances and seconds of each, most utterances first; one without a name
          where there is only one.
        left_out: rows that are not used.
        warned: rows that are used and look wrong.
        lengths: seconds of each utterance that is used, float32.
        symbols: how often each symbol is used.
        unused: symbols of the map that no utterance uses.
        missing: symbols that the map lacks, and how often they were left out.
        notes: worth knowing.
    """

    source: str
    rows: int
    used: int
    seconds: float
    sample_rate: int
    speakers: dict[str, tuple[int, float]]
    left_out: list[LeftOut]
    warned: list[LeftOut]
    lengths: np.ndarray
    symbols: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    training: Training | None = None

    def lines(self) -> Iterator[str]:
        """The summary in short; every row that is not used is named."""
        yield from describe(self.left_out)
        yield from self.notes
        yield from describe(self.warned, limit=_NAMED, what="warning: used, but look at")
        if self.missing:
            symbols = ", ".join(f"{symbol!r} × {n}" for symbol, n in self.missing.most_common())
            yield f"warning: symbols without an id were left out of the phonemes: {symbols}"
        yield self.last_line()

    def last_line(self) -> str:
        """The one line that says how much there is."""
        speakers = f"{len(self.speakers)} speakers" if len(self.speakers) > 1 else "1 speaker"
        length = f"{self.seconds / 3600:.2f} hours ({self.seconds:.1f} seconds)"
        return f"used {self.used} of {self.rows} rows: {length}, {speakers}"

    def histogram(self) -> tuple[list[float], list[int]]:
        """Edges in seconds, and how many utterances lie between each two of them."""
        if not len(self.lengths):
            return [0.0, 1.0], [0]
        longest = float(self.lengths.max())
        width = next(w for w in (0.25, 0.5, 1, 2, 5, 10, 30, 60, 120) if longest <= 24 * w)
        edges = width * np.arange(math.floor(longest / width) + 2)
        counts, _ = np.histogram(self.lengths, edges)
        return [float(edge) for edge in edges], counts.tolist()

    def to_dict(self) -> dict[str, Any]:
        """Everything in types that JSON holds."""
        edges, counts = self.histogram()
        quantiles = np.quantile(self.lengths, [0, 0.05, 0.5, 0.95, 1]) if self.used else [0.0] * 5
        training = self.training
        return {
            "source": self.source,
            "rows": self.rows,
            "used": self.used,
            "left_out": [_row(item) for item in self.left_out],
            "warned": [_row(item) for item in self.warned],
            "seconds": round(self.seconds, 3),
            "hours": round(self.seconds / 3600, 4),
            "sample_rate": self.sample_rate,
            "speakers": {
                name: {"utterances": count, "seconds": round(seconds, 3)}
                for name, (count, seconds) in self.speakers.items()
            },
            "lengths": {
                **{
                    name: round(float(value), 3)
                    for name, value in zip(
                        ("shortest", "5 %", "median", "95 %", "longest"), quantiles
                    )
                },
                "edges": edges,
                "counts": counts,
            },
            "symbols": {
                "used": dict(self.symbols.most_common()),
                "unused": self.unused,
                "unknown": dict(self.missing.most_common()),
            },
            "notes": self.notes,
            "training": None
            if training is None
            else {
                "batch_size": training.batch_size,
                "batch_frames": training.batch_frames,
                "utterances": training.utterances,
                "not_validated_on": training.unheard,
                "steps_per_epoch": training.steps_per_epoch,
                "buckets": [
                    {**asdict(bucket), "batches": batches} for bucket, batches in training.buckets
                ],
                "padding": round(training.padding, 4),
                "phoneme_padding": round(training.phoneme_padding, 4),
                "memory_bytes": training.memory,
            },
        }


def make_report(
    source: str,
    rows: int,
    table: Table,
    left_out: list[LeftOut],
    sample_rate: int,
    *,
    exclude: Collection[str] = (),
    symbols: Counter[str] | None = None,
    id_map: Collection[str] = (),
    notes: list[str] | None = None,
) -> tuple[Report, set[int]]:
    """The report, and the rows of `table` that `exclude` takes out.

    Args:
        source: the directory.
        rows: of it.
        table: of rows that can be used.
        left_out: all other rows.
        sample_rate: hertz.
        exclude: names of `WARNINGS` whose rows shall not be used.
        symbols: that the utterances in the table use.
        id_map: the symbols that have an id.
        notes: worth knowing.
    """
    warnings = warned_of(table, sample_rate)
    excluded = {row: item for row, key, item in reversed(warnings) if key in exclude}
    warned = [item for row, _, item in warnings if row not in excluded]
    left_out = sorted([*left_out, *excluded.values()], key=lambda item: order(item.where))
    table = table.without(excluded)
    samples = table.array("samples")
    symbols, notes = symbols or Counter(), list(notes or [])
    if 0 < (usual := usual_rate(table)) < sample_rate:
        notes.append(
            f"warning: most recordings have {usual} samples per second, fewer than the voice's "
            f"{sample_rate}: it would lack treble; better prepare it with --sample-rate {usual}"
        )
    report = Report(
        source=source,
        rows=rows,
        used=len(table),
        seconds=float(samples.sum(dtype=np.int64)) / sample_rate,
        sample_rate=sample_rate,
        speakers=_speakers(table, sample_rate),
        left_out=left_out,
        warned=warned,
        lengths=(samples / sample_rate).astype(np.float32),
        symbols=symbols,
        unused=sorted(set(id_map) - set(symbols) - set("_^$")),
        missing=sum(table.unknown.values(), Counter()),
        notes=notes,
    )
    return report, set(excluded)


def plan_training(
    table: Table,
    *,
    batch_size: int | None,
    batch_frames: int | None,
    hop_length: int,
    segment_frames: int,
    num_buckets: int,
    validation_split: float,
    num_test_examples: int,
) -> Training:
    """What ``train`` would make of some rows; the arguments are its flags."""
    parts = split(table.array("keys"), validation_split, num_test_examples)
    plan = make_plan(
        table,
        parts.train,
        batch_size=batch_size,
        batch_frames=batch_frames,
        hop_length=hop_length,
        segment_frames=segment_frames,
        num_buckets=num_buckets,
        seed=0,
    )
    _, unheard = validation_plan(plan, table, parts.validation)
    return Training(
        batch_size=batch_size,
        batch_frames=batch_frames,
        utterances=len(parts.train),
        unheard=len(unheard),
        steps_per_epoch=plan.steps_per_epoch,
        buckets=[
            (bucket, batches)
            for bucket, batches in zip(plan.buckets, plan.schedule.batches, strict=True)
            if batches
        ],
        padding=plan.padding,
        phoneme_padding=plan.phoneme_padding,
    )


def order(where: str) -> tuple[str, int]:
    """What ``file:line`` is sorted by."""
    path, _, line = where.rpartition(":")
    return path, int(line)


def _speakers(table: Table, sample_rate: int) -> dict[str, tuple[int, float]]:
    counts, samples = Counter(table.speakers), Counter[str | None]()
    for speaker, length in zip(table.speakers, table.samples):
        samples[speaker] += int(length)
    return {
        speaker or "": (count, samples[speaker] / sample_rate)
        for speaker, count in counts.most_common()
    }


def _row(item: LeftOut) -> dict[str, str]:
    return {"where": item.where, "name": item.name, "kind": item.kind, "reason": item.reason}
