"""Small corpora and prepared directories, made of tones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vits_jax.data.corpora.audio_files import Recording
from vits_jax.data.storage import building
from vits_jax.data.storage import store as stores
from vits_jax.data.unusable import Refused

RATE = 16000
HOP, MIN_SAMPLES = 256, 385


def tone(seconds: float, rate: int = RATE, hertz: float = 3000.0) -> np.ndarray:
    """float32 ``[samples]`` in [-0.5, 0.5]; the speech detector does not take it for speech."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def recorded(samples: np.ndarray) -> Recording:
    """int16 ``[samples]`` as a recording of which nothing else is known."""
    return Recording(samples, RATE, 0, float("nan"))


def write_store(
    directory: Path, mark: str, rate: int, recordings: Iterable[Recording | Refused]
) -> list[stores.Outcome]:
    """A store of these recordings in `directory`."""
    target = stores.store_path(directory, mark)
    return building.build(target, rate, lambda start: iter(list(recordings)[start:]), "settings")


def write_corpus(directory: Path, lines: Iterable[str], wavs: dict[str, float] | None = None):
    """``metadata.csv`` of these lines, and a tone of so many seconds for each name."""
    (directory / "wavs").mkdir(parents=True, exist_ok=True)
    (directory / "metadata.csv").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    for name, seconds in (wavs or {}).items():
        soundfile.write(directory / "wavs" / f"{name}.wav", tone(seconds), RATE)
    return directory


def config(**changes: Any) -> dict[str, Any]:
    """A valid ``config.json``."""
    return {
        "audio": {"sample_rate": RATE, "quality": "x"},
        "espeak": {"voice": "en-us"},
        "num_symbols": 256,
        "num_speakers": 1,
        "speaker_id_map": {},
        "phoneme_id_map": {"_": [0]},
        **changes,
    }


def entry(index: int, **changes: Any) -> dict[str, Any]:
    """A valid line of ``dataset.jsonl`` that names ``<index>.wav``."""
    return {
        "text": f"text {index}",
        "phoneme_ids": [1, 0, 20 + index, 0, 2],
        "audio_norm_path": f"{index}.wav",
        **changes,
    }


def write_prepared(
    directory: Path,
    entries: list[dict[str, Any]] | None = None,
    voice: dict[str, Any] | None = None,
    seconds: float = 0.5,
    audio: bool = True,
) -> Path:
    """A prepared directory as another tool might write it: one WAV file per utterance."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = [entry(i) for i in range(3)] if entries is None else entries
    (directory / "config.json").write_text(json.dumps(config() if voice is None else voice))
    lines = "".join(json.dumps(item) + "\n" for item in entries)
    (directory / "dataset.jsonl").write_text(lines)
    for item in entries if audio else []:
        name = str(item.get("audio_norm_path"))
        if name.endswith(".wav"):
            soundfile.write(directory / name, tone(seconds), RATE)
    return directory


def files_below(directory: Path) -> dict[str, bytes]:
    """Every file, so that two states of a directory can be compared."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
