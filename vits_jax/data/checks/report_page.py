"""A report as one HTML file that needs nothing else: plots inside, players for what looks wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile

from vits_jax.data.checks.report import Report
from vits_jax.data.corpora.audio_files import resample
from vits_jax.data.unusable import LeftOut

_PLAYERS = 60  # on a page: some 60 kB each
_SECONDS = 12.0  # of a clip that is long
_PLAYED_RATE = 22050  # hertz; MP3 knows few
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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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
    page = environment.get_template("report_page.html").render(
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
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        audio, rate = heard
        audio = resample(audio[: int(_SECONDS * rate)].astype(np.float32), rate, _PLAYED_RATE)
        file = io.BytesIO()
        soundfile.write(file, audio, _PLAYED_RATE, format="MP3", subtype="MPEG_LAYER_III")
        return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _kinds(rows: Sequence[tuple[LeftOut, str | None]]) -> str:
    counts: dict[str, int] = {}
    for item, _ in rows:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def plot(bars: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    """What the template draws of some bars: titles, labels, and boxes in a plane of 1000 x 200."""
    width = min(60.0, 1000 / max(1, len(bars)))
    most = max((value for _, _, value in bars), default=0) or 1
    every = max(1, len(bars) * 28 // 1000)  # a label wants some room
    return {
        "width": width * len(bars),
        "bars": [
            {
                "title": title,
                "label": label if i % every == 0 else "",
                "value": f"{value:.4g}" if value and width > 24 else "",
                "x": round(i * width, 2),
                "width": round(0.85 * width, 2),
                "height": round(170 * value / most, 2),
            }
            for i, (title, label, value) in enumerate(bars)
        ],
    }
