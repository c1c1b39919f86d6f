"""Memory that a training step takes on one device, estimated from its batch's shape."""

from __future__ import annotations

from typing import NamedTuple


class _Memory(NamedTuple):
    """Bytes of a step in float32: of the state, and beside it per step, row, frame, phoneme."""

    state: int
    step: int
    row: int
    frame: int
    phoneme: int


_MEMORY: dict[str, _Memory] = {}


def predict(quality: str, rows: int, phonemes: int, frames: int) -> int | None:
    """Bytes; None for a preset that was not measured."""
    m = _MEMORY.get(quality)
    if m is None:
        return None
    return m.state + m.step + rows * (m.row + frames * m.frame + phonemes * m.phoneme)
