"""What ``preprocess`` and ``check`` were told of a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vits_jax.config import AudioConfig
from vits_jax.data.audio_files import KEEP_SECONDS, Target
from vits_jax.data.workers import available_processors

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
    """A corpus, and how it is prepared; see the flags of the same names."""

    input_dir: Path
    sample_rate: int
    speaking: Speaking
    dataset_format: str = "ljspeech"
    dataset_type: str = "text"
    single_speaker: bool = False
    speaker_id: int | None = None
    skip_audio: bool = False
    trim: bool = True
    keep_seconds: tuple[float, float] = (KEEP_SECONDS, KEEP_SECONDS)
    max_seconds: float = MAX_SECONDS
    exclude: frozenset[str] = frozenset()
    max_workers: int = field(default_factory=available_processors)

    @property
    def target(self) -> Target:
        """What recordings are made into."""
        return Target(
            sample_rate=self.sample_rate,
            min_samples=AudioConfig().min_samples,
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
