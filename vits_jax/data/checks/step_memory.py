"""Memory that a training step would take, where no device and no compiler is asked."""

from __future__ import annotations

from typing import NamedTuple


class _Memory(NamedTuple):
    """Bytes of a step in float32: of the state, and beside it per step, row, frame, phoneme."""

    state: int
    step: int
    row: int
    frame: int
    phoneme: int


# Bytes of alignment and attention, which grow with both lengths, in any preset: nothing for a
# sentence, a third of all for a minute.
_PHONEME_AND_FRAME = 85

# Fitted to XLA's own count (`memory_analysis`) of the compiled step, on CPU: medium at four
# shapes from 48 rows of 200 frames to 4 of 5,168, to 2 % of each; the others at four shapes of
# at most 600 frames.
_MEDIUM = _Memory(844_931_100, 436_000_000, 149_500_000, 68_200, 156_500)
_MEMORY = {
    "x-low": _Memory(645_845_916, 389_000_000, 151_000_000, 48_400, 130_000),
    "low": _MEDIUM,
    "medium": _MEDIUM,
    "high": _Memory(996_998_172, 488_000_000, 258_000_000, 116_000, 239_000),
}


def predict(quality: str, rows: int, phonemes: int, frames: int) -> int | None:
    """Bytes in float32 on CPU, about; of a run its compiler tells (`training.memory`).

    Args:
        quality: a preset.
        rows, phonemes, frames: of a batch on one device.

    Returns:
        None for a preset that was not measured.
    """
    m = _MEMORY.get(quality)
    if m is None:
        return None
    row = m.row + frames * m.frame + phonemes * m.phoneme + phonemes * frames * _PHONEME_AND_FRAME
    return m.state + m.step + rows * row
