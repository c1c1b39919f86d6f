"""A comparison as one HTML file: figures, intervals, and players for what was said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from vits_jax.evaluation import shown
from vits_jax.evaluation.comparison import Comparison
from vits_jax.metrics import Clip, Interval, Metric
from vits_jax.pages.page import render, sound, write

_PLAYERS = 90  # on a page: some 60 kB each
_SECONDS = 12.0  # of a clip that is long
_WIDTH, _ROW = 300.0, 18.0  # of the picture of intervals


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page, whole or not at all."""
    names = shown.labels(comparison)
    rows = [_row(comparison, metric, names) for metric in comparison.metrics]
    page = render(
        Path(__file__).with_name("page.html"),
        comparison=comparison,
        names=names,
        rows=[row for row in rows if row is not None],
        sentences=_sentences(comparison, names),
        seconds=_SECONDS,
        most_players=_PLAYERS,
        better=shown.BETTER,
    )
    write(page, path)


def _row(comparison: Comparison, metric: Metric, names: list[str]) -> dict[str, Any] | None:
    """What the template shows of a metric; None where it was taken of no voice."""
    results = [voice.table.results.get(metric.name) for voice in comparison.voices]
    taken = [result for result in results if result is not None]
    if not taken:
        return None
    own = taken[0].recordings
    lines = [
        (name, f"voice{i}", None if result is None else result.interval)
        for i, (name, result) in enumerate(zip(names, results))
    ]
    lines += [] if own is None else [("recordings", "recordings", own)]
    found = comparison.differences.get(metric.name)
    winner = None if found is None else comparison.winner(metric.name)
    return {
        "metric": metric,
        "cells": [
            "not taken" if interval is None else shown.interval(interval)
            for _, style, interval in lines
            if style != "recordings"
        ],
        "recordings": shown.interval(own),
        "difference": shown.interval(found),
        "better_voice": None if winner is None else names[winner],
        "picture": _picture([line for line in lines if line[2] is not None]),
    }


def _picture(lines: list[tuple[str, str, Interval | None]]) -> dict[str, Any]:
    """Where the template draws points and intervals, in a plane of `_WIDTH`."""
    intervals = [(name, style, found) for name, style, found in lines if found is not None]
    ends = [
        end
        for _, _, found in intervals
        for end in (found.mean, found.low, found.high)
        if not math.isnan(end)
    ]
    low, high = min(ends), max(ends)
    room = (high - low) or abs(high) or 1.0
    low, high = low - 0.08 * room, high + 0.08 * room

    def at(value: float) -> float:
        return round(_WIDTH * (value - low) / (high - low), 1)

    return {
        "width": _WIDTH,
        "height": _ROW * len(intervals),
        "label": "; ".join(f"{name} {shown.interval(found)}" for name, _, found in intervals),
        "lines": [
            {
                "title": f"{name}: {shown.interval(found)}",
                "style": style,
                "y": _ROW * (i + 0.5),
                "mean": at(found.mean),
                "ends": None if math.isnan(found.low) else (at(found.low), at(found.high)),
            }
            for i, (name, style, found) in enumerate(intervals)
        ],
    }


def _sentences(comparison: Comparison, names: list[str]) -> list[dict[str, Any]]:
    """Each with its sounds, and what was measured of each."""
    left = [_PLAYERS]

    def player(clip: Clip | None) -> str | None:
        if clip is None or not left[0]:
            return None
        left[0] -= 1
        return sound(clip.audio, clip.sample_rate, _SECONDS)

    sentences = []
    for i, utterance in enumerate(comparison.material.utterances):
        said: list[dict[str, Any]] = [
            {
                "name": names[number],
                "style": f"voice{number}",
                "player": player(voice.clips[i]),
                "values": [
                    f"{metric} {shown.number(result.values[i])}{_unit(result.metric)}"
                    for metric, result in voice.table.results.items()
                    if not math.isnan(result.values[i])
                ],
            }
            for number, voice in enumerate(comparison.voices)
        ]
        if utterance.recording is not None:
            recording = {"name": "recording", "style": "recordings", "values": []}
            said.insert(0, recording | {"player": player(utterance.recording)})
        sentences.append({"utterance": utterance, "said": said})
    return sentences


def _unit(metric: Metric) -> str:
    return f" {metric.unit}" if metric.unit else ""
