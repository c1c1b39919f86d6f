"""A small corpus, and where its preparation goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.tones import write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = ["a|ann|One.", "b|bob|Two.", "c|bob|Three."]
    return write_corpus(tmp_path / "corpus", lines, {"a": 1.0, "b": 1.5, "c": 2.0})


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return tmp_path / "voices" / "medium"
