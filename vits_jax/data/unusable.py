"""What cannot be trained on: the limits, and each utterance beyond them with a reason.

Small, because worker processes import and return it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limits:
    """Of an utterance's lengths.

    Attributes:
        hop_length: samples per frame.
        min_samples: fewest samples that can be analysed.
        max_phoneme_ids, max_frames: most, the last, partial frame included; None: any number.
    """

    hop_length: int
    min_samples: int
    max_phoneme_ids: int | None = None
    max_frames: int | None = None

    def allow(self, ids: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Which utterances can be used, bool ``[utterances]``, by their ids and samples."""
        allowed = (samples >= self.min_samples) & (ids <= samples // self.hop_length)
        if self.max_phoneme_ids is not None:
            allowed &= ids <= self.max_phoneme_ids
        if self.max_frames is not None:
            allowed &= -(-samples // self.hop_length) <= self.max_frames
        return allowed

    def fault(self, ids: int, samples: int) -> tuple[str, str] | None:
        """Why one utterance cannot be used, in short and in full; None if it can."""
        frames, with_partial = samples // self.hop_length, -(-samples // self.hop_length)
        if self.max_phoneme_ids is not None and ids > self.max_phoneme_ids:
            kind, numbers = "too many phoneme ids", f"{ids}, at most {self.max_phoneme_ids}"
        elif self.max_frames is not None and with_partial > self.max_frames:
            kind, numbers = "too many frames", f"{with_partial}, at most {self.max_frames}"
        elif ids > frames:
            kind, numbers = "more phoneme ids than frames", f"{ids} ids, {frames} frames"
        elif samples < self.min_samples:
            kind = "too short"
            numbers = f"{samples} samples, at least {self.min_samples} are needed"
        else:
            return None
        return kind, f"{kind}: {numbers}"


@dataclass(frozen=True)
class Refused:
    """A recording that did not become a record.

    Attributes:
        kind: the reason without its numbers, to count by: ``too short``.
        reason: the reason in full.
    """

    kind: str
    reason: str


@dataclass(frozen=True)
class LeftOut:
    """An utterance that will not be used, or is used and looks wrong.

    Attributes:
        where: file and line, such as ``metadata.csv:12``.
        name: the utterance's own name.
        kind: the reason without its numbers, to count by: ``too short``.
        reason: the reason in full: ``too short: 300 samples, at least 385 are needed``.
    """

    where: str
    name: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.name}: {self.reason}"


def describe(
    left_out: Sequence[LeftOut], limit: int | None = None, what: str = "left out"
) -> Iterator[str]:
    """Lines that tell what was left out: the counts by reason, then every utterance.

    Args:
        left_out: what was left out; nothing gives no line.
        limit: name at most so many utterances, and say how many more there are.
        what: happened to them.
    """
    if not left_out:
        return
    counts = Counter(item.kind for item in left_out)
    reasons = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    yield f"{what} {len(left_out)}: {reasons}"
    for item in left_out[:limit]:
        yield f"  {item}"
    if limit is not None and len(left_out) > limit:
        yield f"  and {len(left_out) - limit} more"
