"""Figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Mapping[str, Mapping[str, Any]], first: str = "part") -> str:
    """One row for each name; the columns are the figures' names, ``_`` read as spaces."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [_row([first, *(column.replace("_", " ") for column in columns)])]
    lines.append("|" + "---|" * (len(columns) + 1))
    for name, row in rows.items():
        lines.append(_row([name, *(_shown(row.get(column)) for column in columns)]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
