"""A report as one HTML file that needs nothing else: plots inside, players for what looks wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vits_jax.data.checks.report import Report
from vits_jax.data.unusable import LeftOut
from vits_jax.pages.page import plot, render, sound, write

_PLAYERS = 60  # on a page: some 60 kB each
_SECONDS = 12.0  # of a clip that is long
_BARS = 40

Listen = Callable[[str], tuple[np.ndarray, int] | None]
"""``file:line`` → the recording as float ``[samples]`` and its rate; None where there is none."""


def write_page(report: Report, listen: Listen, path: Path) -> None:
    """Write the page, whole or not at all.

    Args:
        report: what it shows.
        listen: gives the recordings of rows.
        path: of the file.
    """
    players = _Players(listen)
    edges, counts = report.histogram()
    lengths = [
        (f"{low:g} to {high:g} s: {count}", f"{low:g}", count)
        for low, high, count in zip(edges, edges[1:], counts)
    ]
    speakers = [
        (f"{name}: {count} utterances, {seconds / 60:.1f} minutes", name, seconds / 60)
        for name, (count, seconds) in list(report.speakers.items())[:_BARS]
    ]
    symbols = [
        (f"{symbol!r}: {count}", symbol, count)
        for symbol, count in report.symbols.most_common(3 * _BARS)
    ]
    page = render(
        Path(__file__).with_name("report_page.html"),
        report=report,
        numbers=report.to_dict(),
        groups=[
            ("Not used", "bad", players.rows(report.left_out)),
            ("Used, but look at them", "odd", players.rows(report.warned)),
        ],
        kinds=_kinds,
        lengths=plot(lengths),
        speakers=plot(speakers) if len(report.speakers) > 1 else None,
        symbols=plot(symbols) if symbols else None,
        seconds=_SECONDS,
        most_players=_PLAYERS,
    )
    write(page, path)


class _Players:
    """Recordings as ``data:`` addresses, up to a number."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._left = _PLAYERS

    def rows(self, items: Sequence[LeftOut]) -> list[tuple[LeftOut, str | None]]:
        """Each row, and its recording where there is one to hear."""
        return [(item, self._player(item)) for item in items]

    def _player(self, item: LeftOut) -> str | None:
        heard = self._listen(item.where) if self._left else None
        if heard is None:
            return None
        self._left -= 1
        return sound(*heard, _SECONDS)


def _kinds(rows: Sequence[tuple[LeftOut, str | None]]) -> str:
    counts: dict[str, int] = {}
    for item, _ in rows:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())
