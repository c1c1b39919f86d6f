"""What ``preprocess`` and ``check`` were told of a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vits_jax.config import AudioConfig
from vits_jax.data.corpora.audio_files import KEEP_SECONDS, Target
from vits_jax.data.preparing.workers import available_processors
from vits_jax.data.unusable import Limits
from vits_jax.errors import UserError


def location(text: str) -> Path:
    """A path, or the address of a folder in a bucket: ``gs://``, ``s3://``.

    Raises:
        UserError: the bucket cannot be reached, or what reaches it is not installed.
    """
    if "://" not in text:
        return Path(text)
    from etils import epath  # looks for TensorFlow

    try:
        path = epath.Path(text)
        path.exists()  # what it needs, and whether it can be reached
        return path
    except ImportError as error:
        raise UserError(f"{text} needs {error.name or 'gcsfs'}: pip install gcsfs") from error
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{text}: expected a path, or gs:// that can be reached: {error}"
        ) from error


MAX_SECONDS = 60.0  # one long recording decides the memory that a whole batch takes
CONTENTS = ("text", "phoneme_ids")


@dataclass(frozen=True)
class Speaking:
    """How text becomes phoneme ids; see the flags of the same names."""

    language: str
    phoneme_type: str = "espeak"
    text_casing: str = "ignore"
    tashkeel: bool = False
    phonemes_path: Path | None = None


@dataclass(frozen=True)
class Settings:
    """A corpus, and how it is prepared; see the flags of the same names.

    Attributes:
        audio: of the preset to train with: what is too short for it is reported.
    """

    input_dir: Path
    sample_rate: int
    speaking: Speaking
    audio: AudioConfig = field(default_factory=AudioConfig)
    dataset_format: str = "ljspeech"
    dataset_type: str = "text"
    single_speaker: bool = False
    speaker_id: int | None = None
    skip_audio: bool = False
    trim: bool = True
    keep_seconds: tuple[float, float] = (KEEP_SECONDS, KEEP_SECONDS)
    max_seconds: float = MAX_SECONDS
    max_phoneme_ids: int | None = None
    max_frames: int | None = None
    exclude: frozenset[str] = frozenset()
    max_workers: int = field(default_factory=available_processors)

    @property
    def limits(self) -> Limits:
        """What utterances may be like."""
        hop, least = self.audio.hop_length, self.audio.min_samples
        return Limits(hop, least, self.max_phoneme_ids, self.max_frames)

    @property
    def target(self) -> Target:
        """What recordings are made into."""
        return Target(
            sample_rate=self.sample_rate,
            min_samples=self.audio.min_samples,
            max_seconds=self.max_seconds,
            keep_seconds=self.keep_seconds if self.trim else None,
        )


@dataclass(frozen=True)
class Output:
    """Where a prepared corpus goes, and what its ``config.json`` calls it."""

    directory: Path
    cache_dir: Path | None = None
    dataset_name: str | None = None
    audio_quality: str | None = None

    @property
    def workplace(self) -> Path:
        """Where a store is until it is whole."""
        return self.cache_dir or self.directory
