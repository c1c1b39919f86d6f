"""What is measured: a piece of speech, and what is known of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vits_jax.errors import UserError

_SILENT = 10 ** (-40 / 20)
"""A frame this much below the loudest one is silent: 40 dB."""
_FRAME_SECONDS = 0.01


@dataclass(frozen=True, eq=False)
class Clip:
    """A piece of speech. Clips are compared by identity, so that analyses of one are kept.

    Attributes:
        audio: float32 ``[samples]`` in [-1, 1].
        sample_rate: hertz.
        text: what is said; None where nobody knows.
        speaker: who says it; None where there is only one.
        reference: the recording of the same utterance; None where there is none.
        name: for tables.

    Raises:
        ValueError: the audio is empty, has another shape, or holds numbers that are not finite.
    """

    audio: np.ndarray = field(repr=False)
    sample_rate: int
    text: str | None = None
    speaker: str | None = None
    reference: Clip | None = field(default=None, repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        audio = np.asarray(self.audio, np.float32)
        if audio.ndim != 1 or not len(audio):
            raise ValueError(f"audio of shape {audio.shape}: expected [samples], at least one")
        if not np.isfinite(audio).all():
            raise ValueError("audio holds numbers that are not finite")
        if self.sample_rate < 1:
            raise ValueError(f"sample rate {self.sample_rate}: expected hertz")
        object.__setattr__(self, "audio", audio)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.audio) / self.sample_rate


def read(
    path: str | Path,
    *,
    text: str | None = None,
    speaker: str | None = None,
    reference: Clip | None = None,
    name: str | None = None,
) -> Clip:
    """A clip from a file that libsndfile reads; channels are averaged.

    Args:
        path: of the file.
        text: what is said in it.
        speaker: who says it.
        reference: the recording of the same utterance.
        name: default: the file's, without its ending.

    Raises:
        UserError: it cannot be read, or holds no speech.
    """
    import soundfile

    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return Clip(
            *(audio.mean(axis=1), rate, text, speaker, reference),
            name=Path(path).stem if name is None else name,
        )
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None)
        raise UserError(f"{path}: expected a sound file with speech: {reason or error}") from error


@functools.lru_cache(maxsize=128)
def resampled(clip: Clip, rate: int) -> np.ndarray:
    """Its audio at another rate, float32 ``[samples · rate / clip.sample_rate]``."""
    if rate == clip.sample_rate:
        return clip.audio
    import soxr

    return soxr.resample(clip.audio, clip.sample_rate, rate, quality="HQ").astype(np.float32)


def silent_frames(audio: np.ndarray, rate: int) -> np.ndarray:
    """Which frames of 10 ms are silent: 40 dB below the loudest one, or nothing at all.

    Args:
        audio: ``[samples]``; a last part of a frame counts as one.
        rate: hertz.

    Returns:
        bool ``[frames]``.
    """
    size = max(1, round(_FRAME_SECONDS * rate))
    frames = -(-len(audio) // size)
    padded = np.zeros(frames * size)
    padded[: len(audio)] = audio
    rms = np.sqrt(np.mean(np.square(padded.reshape(frames, size)), axis=1))
    return np.asarray(rms <= _SILENT * rms.max())


def spoken_span(audio: np.ndarray, rate: int) -> tuple[int, int]:
    """First and last sample (exclusive) that is not in silence around the speech.

    All of it where no frame is loud.
    """
    loud = np.flatnonzero(~silent_frames(audio, rate))
    if not len(loud):
        return 0, len(audio)
    size = max(1, round(_FRAME_SECONDS * rate))
    return int(loud[0]) * size, min(len(audio), (int(loud[-1]) + 1) * size)


def trimmed(audio: np.ndarray, rate: int) -> np.ndarray:
    """Without the silence before and after it, ``[samples]``."""
    first, last = spoken_span(audio, rate)
    return audio[first:last]
