"""What an utterance has to be like to be trained on."""

from __future__ import annotations

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
