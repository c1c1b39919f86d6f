"""Where the time goes from a command to its first step."""

from __future__ import annotations

import re
import time

import psutil

_LINE = re.compile(r"first step after ([\d.]+) s: (.*)")
_PART = re.compile(r"([a-z ]+) ([\d.]+)")


class Timeline:
    """Parts that follow one another; their seconds sum up to `seconds`.

    Args:
        since: when it began, in seconds since the epoch (default: now).

    Attributes:
        parts: seconds of each, in order.
        tracing: seconds of tracing the first step's programs, in the background.
    """

    def __init__(self, since: float | None = None):
        self.parts: dict[str, float] = {}
        self.tracing = 0.0
        # By the clock that never jumps, from here on.
        self._last = time.perf_counter() - (0.0 if since is None else max(0, time.time() - since))

    @classmethod
    def of_process(cls) -> Timeline:
        """Since this process was started, to a hundredth of a second."""
        return cls(psutil.Process().create_time())

    def done(self, part: str) -> None:
        """All since the part before it was `part`."""
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        told = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        beside = f"; beside them: tracing {self.tracing:.1f}"
        return f"first step after {self.seconds:.1f} s: {told}{beside}"


def parse(text: str) -> tuple[float, dict[str, float]] | None:
    """Seconds, and those of each part and of ``tracing``, as a `Timeline` tells them.

    None where nothing in the text, such as all that a run said, is one.
    """
    line = _LINE.search(text)
    if line is None:
        return None
    return float(line[1]), {part.strip(): float(s) for part, s in _PART.findall(line[2])}
