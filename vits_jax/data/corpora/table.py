"""Utterances that can be used, in columns, and which of them look wrong."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vits_jax.data.unusable import LeftOut

# What is warned of: its name as a value of --exclude, and as it is shown.
WARNINGS = {
    "clipped": "clipped",
    "duplicate": "duplicate",
    "sample-rate": "odd sample rate",
    "speaking-rate": "odd speaking rate",
    "unknown-symbols": "unknown symbols",
}

# Piper's filter_utterances leaves these out of the count, as trimming leaves out pauses.
_PUNCTUATION = str.maketrans("", "", ".。,，?¿？؟!！;；:：-—")
_FENCE = 2.0  # interquartile ranges beyond the quartiles
_LEAST_FOR_FENCE = 4  # rows of a speaker: fewer have no quartiles to speak of


def characters(text: str) -> int:
    """Characters of a text that count for the speaking rate."""
    return len(text.translate(_PUNCTUATION))


@dataclass
class Table:
    """Utterances in columns; entry i of every column is one of them.

    Attributes:
        where: file and line.
        names: as the corpus or the recording's file is called.
        speakers: the speaker's name; None where there is one only.
        records: number of the recording; two rows with the same number share it.
        samples: of the prepared audio.
        id_lengths: phoneme ids.
        keys: what `split` goes by.
        characters: of the text, without punctuation; 0 where there is none.
        rates: of the recording's file, hertz.
        clipped: samples at full scale.
        speech: seconds of speech; NaN where unknown.
        unknown: by row, symbols that the map lacks, and how often.
    """

    where: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    speakers: list[str | None] = field(default_factory=list)
    records: Any = field(default_factory=lambda: array("i"))
    samples: Any = field(default_factory=lambda: array("i"))
    id_lengths: Any = field(default_factory=lambda: array("i"))
    keys: Any = field(default_factory=lambda: array("Q"))
    characters: Any = field(default_factory=lambda: array("i"))
    rates: Any = field(default_factory=lambda: array("i"))
    clipped: Any = field(default_factory=lambda: array("i"))
    speech: Any = field(default_factory=lambda: array("f"))
    unknown: dict[int, Counter[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.where)

    def add(
        self,
        where: str,
        name: str,
        speaker: str | None,
        *,
        record: int,
        samples: int,
        ids: int,
        key: int,
        characters: int,
        facts: Sequence[Any],
        unknown: Counter[str] | None = None,
    ) -> None:
        """Add a row; `facts` are the rate, the clipped samples and the seconds of speech."""
        if unknown:
            self.unknown[len(self)] = unknown
        self.where.append(where)
        self.names.append(name)
        self.speakers.append(speaker)
        self.records.append(record)
        self.samples.append(samples)
        self.id_lengths.append(ids)
        self.keys.append(key)
        self.characters.append(characters)
        for column, fact in zip((self.rates, self.clipped, self.speech), facts):
            column.append(fact)

    def array(self, column: str) -> np.ndarray:
        """A column of numbers, ``[rows]``."""
        return np.asarray(getattr(self, column))

    def without(self, rows: Collection[int]) -> Table:
        """The table without some rows."""
        keep = np.ones(len(self), bool)
        keep[list(rows)] = False
        kept = np.flatnonzero(keep)
        numbers = [
            *("records", "samples", "id_lengths", "keys", "characters"),
            *("rates", "clipped", "speech"),
        ]
        place = {old: new for new, old in enumerate(kept.tolist())}
        return Table(
            where=[self.where[row] for row in kept],
            names=[self.names[row] for row in kept],
            speakers=[self.speakers[row] for row in kept],
            unknown={place[row]: n for row, n in self.unknown.items() if row in place},
            **{name: self.array(name)[keep] for name in numbers},
        )


def usual_rate(table: Table) -> int:
    """The rate that most files have, hertz; 0 of nothing."""
    rates = table.array("rates")
    return int(np.bincount(rates).argmax()) if len(rates) else 0


def warned_of(table: Table, sample_rate: int) -> list[tuple[int, str, LeftOut]]:
    """Rows that look wrong: the row, the value of ``--exclude`` it falls under, and what it is.

    Args:
        table: of rows that can be used.
        sample_rate: of the voice, hertz.
    """
    found: list[tuple[int, str, LeftOut]] = []

    def warn(row: int, key: str, detail: str) -> None:
        kind = WARNINGS[key]
        item = LeftOut(table.where[row], table.names[row], kind, f"{kind}: {detail}")
        found.append((row, key, item))

    clipped = table.array("clipped")
    for row in np.flatnonzero(clipped).tolist():
        warn(row, "clipped", f"{clipped[row]} samples in runs at full scale")
    for row, first in _duplicates(table.array("records")):
        warn(row, "duplicate", f"the same recording as {table.where[first]}")
    rates, usual = table.array("rates"), usual_rate(table)
    for row in np.flatnonzero(rates != usual).tolist():
        below = rates[row] < sample_rate
        why = f"below the voice's {sample_rate}" if below else f"most have {usual}"
        warn(row, "sample-rate", f"{rates[row]} samples per second, {why}")
    for row, speed, slowest, fastest in _outside_fence(table):
        others = f"usual for the speaker: {slowest:.1f} to {fastest:.1f}"
        warn(row, "speaking-rate", f"{speed:.1f} characters a second, {others}")
    for row, symbols in table.unknown.items():
        shown = " ".join(map(repr, symbols))
        warn(row, "unknown-symbols", f"{shown}, left out of the phonemes")
    return sorted(found, key=lambda item: item[0])


def _duplicates(records: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows whose recording an earlier row has, and that row."""
    _, firsts, which = np.unique(records, return_index=True, return_inverse=True)
    for row in np.flatnonzero(firsts[which] != np.arange(len(records))).tolist():
        yield row, int(firsts[which[row]])


def _outside_fence(table: Table) -> Iterator[tuple[int, float, float, float]]:
    """Rows spoken unusually slowly or fast for their speaker: row, rate, lower and upper fence.

    Piper's ``filter_utterances``: characters without punctuation per second of speech,
    more than two interquartile ranges outside the quartiles (those of Python's
    ``statistics.quantiles``).
    """
    numbers: dict[str | None, int] = {}
    speaker_of = np.array([numbers.setdefault(s, len(numbers)) for s in table.speakers], np.int64)
    lengths, seconds = table.array("characters"), table.array("speech")
    known = (lengths > 0) & (seconds > 0)  # NaN is not
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = lengths / seconds
    for number in range(len(numbers)):
        rows = np.flatnonzero((speaker_of == number) & known)
        if len(rows) < _LEAST_FOR_FENCE:
            continue
        first, third = np.quantile(rates[rows], [0.25, 0.75], method="weibull")
        low, high = first - _FENCE * (third - first), third + _FENCE * (third - first)
        for row in rows[(rates[rows] < low) | (rates[rows] > high)].tolist():
            yield row, float(rates[row]), float(low), float(high)
