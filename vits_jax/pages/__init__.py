"""HTML pages that need nothing else: templates, and what they are filled with."""

from __future__ import annotations

import base64
import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile
import soxr

from vits_jax import files

_PLAYED_RATE = 22050  # hertz; MP3 knows few


def write(path: Path, template: str, **values: Any) -> None:
    """Fill a template of this package, and write the page, whole or not at all.

    Raises:
        FileNotFoundError: its directory is not there.
        UserError: it cannot be written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files.write({path: environment.get_template(template).render(**values).encode()})


def mp3(audio: np.ndarray, rate: int) -> str:
    """Float ``[samples]`` as a ``data:`` address, some 5 kB a second."""
    audio = soxr.resample(np.clip(audio, -1, 1).astype(np.float32), rate, _PLAYED_RATE)
    file = io.BytesIO()
    soundfile.write(file, audio, _PLAYED_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return f"data:audio/mpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def bars(values: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    """What ``plot`` draws of some bars: titles, labels, and boxes in a plane of 1000 x 200."""
    width = min(60.0, 1000 / max(1, len(values)))
    most = max((value for _, _, value in values), default=0) or 1
    every = max(1, len(values) * 28 // 1000)  # a label wants some room
    return {
        "width": width * len(values),
        "bars": [
            {
                "title": title,
                "label": label if i % every == 0 else "",
                "value": f"{value:.4g}" if value and width > 24 else "",
                "x": round(i * width, 2),
                "width": round(0.85 * width, 2),
                "height": round(170 * value / most, 2),
            }
            for i, (title, label, value) in enumerate(values)
        ],
    }
