"""A tree of voices as clients find them, with one voice in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.runs import RATE
from tests.voice import test_voice
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.store import Metadata
from vits_jax.commands.export_onnx import main
from vits_jax.model.networks import GENERATOR
from vits_jax.state import Position, TrainState
from vits_jax.voice import export
from vits_jax.voice.verify import Agreement

OLD_PAPERS = {
    "dataset": "letters",
    "audio": {"sample_rate": RATE, "quality": "tiny"},
    "espeak": {"voice": "en-us"},
    "language": {"code": "en-us"},  # as preprocess wrote it once
    "phoneme_type": "espeak",
}
Export = Callable[..., int]


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint from before the languages were written in full; two speakers."""
    voice, directory = test_voice.voice(), tmp_path_factory.mktemp("old") / "run"
    checkpoints = Checkpoints(directory, Keep())
    metadata = Metadata(voice.config, Position(), dict(voice.dataset) | OLD_PAPERS, {})
    checkpoints.save(
        1, TrainState(np.array(1, np.int32), {GENERATOR: voice.parameters}).to_dict(), metadata
    )
    checkpoints.close()
    return directory


@pytest.fixture(scope="session")
def put(run_directory: Path) -> Export:
    """Export it into a directory, with flags; the exit code."""

    def put(output: Path, *flags: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            # What JAX would say has tests of its own, and takes long to compile.
            patch.setattr(export, "compare", lambda *_: Agreement(0.0, 0, 0, 1, 1, finite=True))
            return main([str(run_directory), str(output), *flags])

    return put


@pytest.fixture(scope="session")
def tree(put: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root; its voice is `KEY` of test_servers."""
    root = tmp_path_factory.mktemp("tree") / "voices"
    text = root.with_name("hello.txt")
    text.write_text("Here I am. This is my voice.", encoding="utf-8")
    flags = ["--license", "CC0", "--dataset-url", "https://huggingface.co/datasets/me/letters"]
    flags += ["--base", "en_US-lessac-medium", "--samples", str(text)]
    assert put(root, "--name", "anna", *flags) == 0
    return root
