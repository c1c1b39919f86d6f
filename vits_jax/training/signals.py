"""What is plainly wrong with spoken examples: silence, clipping, length, beside the recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vits_jax.metrics.clips import silent_frames

_FLOOR = -120.0  # decibels
_FULL = 0.999


def level(audio: np.ndarray) -> float:
    """Root mean square of samples in [-1, 1], decibels below full scale."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return max(_FLOOR, 10 * np.log10(power + 1e-12))


def clipping(audio: np.ndarray) -> float:
    """Share of samples at full scale."""
    return float(np.mean(np.abs(audio) >= _FULL)) if audio.size else 0.0


def compared(spoken: np.ndarray, recording: np.ndarray, rate: int) -> dict[str, float]:
    """One utterance's numbers; ``recorded_…`` are the recording's.

    Args:
        spoken, recording: float ``[samples]`` in [-1, 1], at least one.
        rate: of both, hertz.
    """

    def silence(audio: np.ndarray) -> float:
        return float(np.mean(silent_frames(audio, rate)))

    told = {"level": level, "clipping": clipping, "silence": silence}
    return {
        "length": len(spoken) / max(1, len(recording)),
        **{name: of(spoken) for name, of in told.items()},
        **{f"recorded_{name}": of(recording) for name, of in told.items()},
    }


def apart(mels: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """How far two voices are apart: mean distance of their mean spectra, nepers.

    Args:
        mels, others: log mels ``[frames, channels]`` of each.
    """
    spectra = (np.mean(np.concatenate(each), axis=0) for each in (mels, others))
    return float(np.mean(np.abs(np.subtract(*spectra))))


def means(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over utterances; empty for none."""
    return {name: float(np.mean([each[name] for each in told])) for name in (told or [{}])[0]}
