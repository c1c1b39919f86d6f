"""Voices that several tests read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints.voices.exports import exported, network, voice_json
from tests.parity.cases import CASES


@pytest.fixture(scope="session")
def piper_export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The voice of one of the cases; do not change the file."""

    @functools.cache
    def make(name: str) -> Path:
        path = tmp_path_factory.mktemp("voices") / f"{name}.onnx"
        exported(network(CASES[name]), path)
        path.with_name(path.name + ".json").write_text(json.dumps(voice_json(CASES[name])))
        return path

    return make
