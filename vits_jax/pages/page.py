"""A page as one HTML file that needs nothing else: style, plots and sounds are inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile
import soxr

_PLAYED_RATE = 22050  # hertz; MP3 knows few


def render(template: Path, **values: Any) -> str:
    """A template's page; it may include and import what lies in this room (``style.css`` …).

    Args:
        template: Jinja's, a file; what is put into it is escaped.
        values: for it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def write(page: str, path: Path) -> None:
    """Write a page, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sound(audio: np.ndarray, rate: int, seconds: float) -> str:
    """The first `seconds` of float ``[samples]`` as the ``data:`` address of an MP3 file."""
    audio = audio[: int(seconds * rate)].astype(np.float32)
    if rate != _PLAYED_RATE:
        audio = soxr.resample(audio, rate, _PLAYED_RATE, quality="HQ")
    file = io.BytesIO()
    soundfile.write(file, audio, _PLAYED_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


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
