"""Files of JSON objects, one a line, which a killed process may leave with half a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def objects(path: Path) -> Iterator[dict[str, Any]]:
    """In order, without lines that are none; none where there is no such file."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def of(content: Mapping[str, Any]) -> bytes:
    """A line."""
    return json.dumps(content, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"


def head(path: Path) -> bytes:
    """What is written before the next line, so that this is one of its own."""
    try:
        with path.open("rb") as file:
            file.seek(-1, 2)
            return b"\n" if file.read(1) != b"\n" else b""
    except OSError:  # none, or empty
        return b""
