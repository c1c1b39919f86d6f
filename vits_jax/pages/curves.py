"""Curves over a run's steps, as the template draws them: SVG paths in a plane of 1000 x 300."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH, HEIGHT = 1000, 300
_LEFT, _BOTTOM = 90, 34  # room for the numbers
_MOST = 400  # points of a line: more are averaged


def curve(
    title: str,
    lines: Mapping[str, Sequence[tuple[int, float]]],
    levels: Mapping[str, float] | None = None,
) -> dict[str, Any] | None:
    """What ``curve`` of ``parts.html`` draws; None where there is nothing to draw.

    Args:
        title: of the plot.
        lines: points (step, value) of each, ascending, by name.
        levels: horizontal lines by name, such as what the recordings get.
    """
    lines = {name: _thinned(points) for name, points in lines.items() if points}
    levels = {name: level for name, level in (levels or {}).items() if math.isfinite(level)}
    if not lines:
        return None
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points] + list(levels.values())
    # A few values far off, as of a run's first steps, must not flatten the rest.
    low, high = min(values), min(max(values), float(np.quantile(values, 0.98)) * 1.2 + 1e-9)
    high = max(high, low + 1e-9, *levels.values()) if levels else max(high, low + 1e-9)
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def at(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (step - first) / (last - first) * (WIDTH - _LEFT)
        y = (HEIGHT - _BOTTOM) * (1 - (min(value, high) - low) / (high - low))
        return round(x, 1), round(y, 1)

    return {
        "title": title,
        "said": "; ".join(
            f"{name} from {_short(points[0][1])} at step {points[0][0]} to "
            f"{_short(points[-1][1])} at step {points[-1][0]}"
            for name, points in lines.items()
        )
        + "".join(f"; {name} {_short(level)}" for name, level in levels.items()),
        "lines": [
            {
                "name": name,
                "path": "M" + "L".join(f"{x},{y}" for x, y in (at(*point) for point in points)),
                "last": at(*points[-1]),
                "value": _short(points[-1][1]),
            }
            for name, points in lines.items()
        ],
        "levels": [
            {"name": name, "y": at(first, level)[1], "value": _short(level)}
            for name, level in levels.items()
        ],
        "x": [(at(step, low)[0], f"{step:,.0f}") for step in np.linspace(first, last, 5)],
        "y": [(at(first, value)[1], _short(value)) for value in np.linspace(low, high, 4)],
    }


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    parts = np.array_split(np.asarray(points, np.float64), min(len(points), _MOST))
    return [(round(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


def _short(value: float) -> str:
    return f"{value:.3g}"
