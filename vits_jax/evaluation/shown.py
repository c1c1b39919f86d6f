"""A comparison on the terminal, and numbers as text."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vits_jax.evaluation.comparison import Comparison
from vits_jax.metrics import Interval

BETTER = {"lower": "lower", "higher": "higher", "nearest": "nearest"}


def number(value: float) -> str:
    """Three digits or so."""
    if math.isnan(value):
        return "–"
    digits = 0 if abs(value) >= 1000 else max(0, 2 - math.floor(math.log10(max(abs(value), 0.01))))
    return f"{value:.{min(digits, 3)}f}"


def interval(of: Interval | None) -> str:
    """Mean and interval."""
    if of is None:
        return "–"
    if math.isnan(of.low):
        return number(of.mean)
    return f"{number(of.mean)} [{number(of.low)}, {number(of.high)}]"


def short(name: str) -> str:
    """The end of a path, which tells voices apart well enough where there is little room."""
    return Path(name).name or name


def labels(comparison: Comparison) -> list[str]:
    """What voices are called in tables: the ends of their paths where those differ."""
    kept = [short(voice.name) for voice in comparison.voices]
    return kept if len(set(kept)) == len(kept) else [voice.name for voice in comparison.voices]


def show(comparison: Comparison, console: Console) -> None:
    """Print everything of a comparison but the single clips."""
    material, voices = comparison.material, comparison.voices
    names = labels(comparison)
    recorded = len(material.recordings)
    where = f"{material.source}" + (f", {material.split}" if material.split else "")
    table = Table(title=f"{len(material.utterances)} sentences of {escape(where)}")
    table.title_justify = "left"
    for title in ("metric", *names, *(["recordings"] if recorded else []), "better"):
        table.add_column(escape(title))
    for metric in comparison.metrics:
        results = [voice.table.results.get(metric.name) for voice in voices]
        if not any(results):
            continue
        unit = f" ({metric.unit})" if metric.unit else ""
        cells = [f"{metric.name}{unit}"]
        cells += ["not taken" if r is None else interval(r.interval) for r in results]
        if recorded:
            cells.append(interval(next(r for r in results if r is not None).recordings))
        cells.append(BETTER[metric.better])
        table.add_row(*map(escape, cells))
    console.print(table)
    about = "mean [95 % interval of the mean over the sentences]; nearest: to the recordings"
    if recorded and any("reference" in metric.needs for metric in comparison.metrics):
        about += "; mel, mcd, f0, voicing: a recording is at 0 from itself"
    console.print(about, style="dim", highlight=False, soft_wrap=True)
    if comparison.differences:
        console.print(_differences(comparison, names))
    for voice, name in zip(voices, names):
        for metric_name, why in voice.table.not_taken.items():
            line = f"not taken of {name}: {metric_name}: {why}"
            console.print(f"[yellow]{escape(line)}[/yellow]", soft_wrap=True, highlight=False)


def _differences(comparison: Comparison, names: list[str]) -> Table:
    """Of two voices, sentence by sentence."""
    title = escape(f"{names[0]} - {names[1]}")
    table = Table("metric", "difference", "better", title=title, title_justify="left")
    for metric, found in comparison.differences.items():
        winner = comparison.winner(metric)
        table.add_row(metric, escape(interval(found)), "–" if winner is None else names[winner])
    return table
