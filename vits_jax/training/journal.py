"""``metrics.jsonl``: every number that a run tells, a JSON object a line, whatever else logs it.

A line is ``{"step": 100, "time": 1764000000.0, "train/mel": 0.7, …}``; ``null`` stands for a number
that is not finite. A line ``{"step": 80, "begins": true}`` says that the run went on from step 80:
what earlier lines say of later steps was lost, and is done again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vits_jax import json_lines
from vits_jax.training.appending import Appended

NAME = "metrics.jsonl"


class Journal:
    """Writes it.

    Args:
        run_dir: the run's directory.
        step: that the run begins at.
    """

    def __init__(self, run_dir: Path, step: int):
        self._file = Appended(run_dir, lambda: NAME, "metrics")
        # A line of its own, after one that a killed run may have left unfinished.
        begins = json_lines.of({"step": step, "begins": True})
        self._head = [json_lines.head(run_dir / NAME) + begins]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line."""
        if values:
            self.note(step, {n: float(v) if math.isfinite(v) else None for n, v in values.items()})

    def note(self, step: int, content: Mapping[str, Any]) -> None:
        """A line of anything that JSON holds, beside the numbers."""
        self._file.add(
            [*self._head, json_lines.of({"step": step, "time": round(time.time(), 3), **content})]
        )
        self._head = []

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines that count, in order; none where there is no such file.

    Lines that are no JSON object, as a killed run leaves one, are left out.
    """
    lines: list[dict[str, Any]] = []
    for line in json_lines.objects(run_dir / NAME):
        if not isinstance(line.get("step"), int):
            continue
        if line.get("begins"):
            lines = [earlier for earlier in lines if earlier["step"] <= line["step"]]
        else:
            lines.append(line)
    return lines


def series(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values of one number, where it is finite; the last of a step counts."""
    found = {line["step"]: line[name] for line in lines if line.get(name) is not None}
    return sorted(found.items())


def history(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Every `series`."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                found.setdefault(name, {})[line["step"]] = value
    return {name: sorted(points.items()) for name, points in found.items()}
