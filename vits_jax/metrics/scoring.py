"""Clips scored by metrics, with the recordings' own scores beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vits_jax.metrics.clips import Clip
from vits_jax.metrics.intervals import Interval, difference, interval
from vits_jax.metrics.metric import Metric, NotTaken


@dataclass(frozen=True)
class Result:
    """What a metric says of some clips.

    Attributes:
        metric: which.
        values: float64 ``[clips]``, NaN where it could not be taken.
        interval: of their mean.
        recordings: the same of the recordings; None where there are none, and of a metric against
            a recording: of the recording itself it is 0.
    """

    metric: Metric
    values: np.ndarray
    interval: Interval
    recordings: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON holds; NaN are null."""
        own = self.recordings
        return {
            **of_interval(self.interval),
            "better": self.metric.better,
            "unit": self.metric.unit,
            "recordings": None if own is None else of_interval(own),
            "clips": [_number(value) for value in self.values.tolist()],
        }


@dataclass(frozen=True)
class Table:
    """All results of some clips, and why others there are none.

    Attributes:
        results: by the metric's name.
        not_taken: why not, by the metric's name.
    """

    results: dict[str, Result]
    not_taken: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON holds."""
        return {
            "metrics": {name: result.to_dict() for name, result in self.results.items()},
            "not_taken": self.not_taken,
        }


def score(
    clips: Sequence[Clip],
    recordings: Sequence[Clip],
    metrics: Sequence[Metric],
    *,
    language: str | None = None,
    seed: int = 0,
) -> Table:
    """Take metrics of clips, and of recordings where that says something.

    A metric that cannot be taken, whatever it raises, is told in the table and ends nothing.

    Args:
        clips: what is scored.
        recordings: held-out ones of the same speakers; may be empty.
        metrics: see `built_in.selected` and `plugins.plugin`.
        language: of the speech, such as ``en-us``; a metric that does not know it is not taken.
        seed: of the bootstrap intervals.
    """
    results: dict[str, Result] = {}
    not_taken: dict[str, str] = {}
    for metric in metrics:
        try:
            results[metric.name] = _score(clips, recordings, metric, language, seed)
        except NotTaken as error:
            not_taken[metric.name] = str(error)
        except Exception as error:  # noqa: BLE001  networks, recognisers, other people's functions
            first = str(error).partition("\n")[0]
            not_taken[metric.name] = f"{type(error).__name__}: {first}".removesuffix(": ")
    return Table(results, not_taken)


def _score(
    clips: Sequence[Clip],
    recordings: Sequence[Clip],
    metric: Metric,
    language: str | None,
    seed: int,
) -> Result:
    if language is not None and metric.languages and not language.startswith(metric.languages):
        raise NotTaken(f"it knows {', '.join(metric.languages)} alone, this is {language}")
    if "recordings" in metric.needs and not recordings:
        raise NotTaken("it needs recordings of the speaker")
    if "reference" in metric.needs and not any(clip.reference for clip in clips):
        raise NotTaken("it needs the recording of each sentence")
    if "text" in metric.needs and not any(clip.text for clip in clips):
        raise NotTaken("it needs the text of each clip")
    values = _values(metric, clips, recordings)
    if np.isnan(values).all():
        raise NotTaken("it could be taken of no clip")
    own = None
    if recordings and "reference" not in metric.needs:
        own = interval(_values(metric, recordings, recordings), seed=seed)
        own = own if own.clips else None
    return Result(metric, values, interval(values, seed=seed), own)


def _values(metric: Metric, clips: Sequence[Clip], recordings: Sequence[Clip]) -> np.ndarray:
    """float64 ``[clips]``, as the metric gives them, checked: it may be another's."""
    needs_recordings = "recordings" in metric.needs
    taken = metric.function(clips, recordings) if needs_recordings else metric.function(clips)
    values = np.array(taken, np.float64)
    if values.shape != (len(clips),):
        raise NotTaken(f"it gave numbers of shape {values.shape} for {len(clips)} clips")
    values[~np.isfinite(values)] = np.nan
    return values


def differences(a: Table, b: Table, *, seed: int = 0) -> dict[str, Interval]:
    """Of each metric that both tables have: the mean of ``a - b``, clip by clip.

    The clips must be of the same utterances in the same order. Of a metric where the nearest to
    the recordings is best, it is the difference of the distances to the recordings' mean, where
    there is one.
    """
    found = {}
    for name in a.results.keys() & b.results.keys():
        ours, theirs = a.results[name], b.results[name]
        x, y, own = ours.values, theirs.values, ours.recordings
        if ours.metric.better == "nearest" and own is not None:
            x, y = np.abs(x - own.mean), np.abs(y - own.mean)
        found[name] = difference(x, y, seed=seed)
    return {name: found[name] for name in a.results if name in found}


def of_interval(of: Interval) -> dict[str, float | None]:
    """Mean and ends for JSON; NaN are null."""
    return {"mean": _number(of.mean), "low": _number(of.low), "high": _number(of.high)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
