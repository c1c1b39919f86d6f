"""What the tests of ``preprocess`` share: flags of a small corpus, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.tones import HOP, MIN_SAMPLES, RATE, files_below
from vits_jax.data.corpora import audio_files
from vits_jax.data.manifest import load_dataset


def flags(corpus: Path, prepared: Path, *more: str) -> list[str]:
    return [
        *("--input-dir", str(corpus), "--output_dir", str(prepared), "--language=en-us"),
        *(f"--sample_rate={RATE}", "--dataset-format", "ljspeech", "--max-workers", "1"),
        *more,
    ]


def entries(prepared: Path) -> list[dict]:
    return [json.loads(line) for line in (prepared / "dataset.jsonl").read_text().splitlines()]


def visible(prepared: Path) -> dict[str, bytes]:
    """The files that count: hidden ones are work that was done and is taken up again."""
    return {name: data for name, data in files_below(prepared).items() if name[0] != "."}


def decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list of the recordings that are decoded from now on."""
    decoded: list[str] = []
    decode = audio_files.decode

    def noted(path: Path, *more):
        decoded.append(path.stem)
        return decode(path, *more)

    monkeypatch.setattr(audio_files, "decode", noted)
    return decoded


def load(prepared: Path):
    return load_dataset(prepared, hop_length=HOP, min_samples=MIN_SAMPLES)
