"""A checkpoint whose weights are not finite speaks nowhere: no silence, no export."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from tests.runs import RATE, small, write_dataset
from vits_jax.commands.export_onnx import main as export_onnx
from vits_jax.commands.infer import main as infer
from vits_jax.commands.voice_conversion import main as voice_conversion
from vits_jax.model.networks import GENERATOR
from vits_jax.state import TrainState
from vits_jax.training import loop
from vits_jax.training.start import Start


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never took a step, from weights of which one is no number."""
    make_state = Start.state

    def with_a_nan(*arguments: Any) -> TrainState:
        state = make_state(*arguments)
        generator = state.params[GENERATOR]
        generator["enc_p.emb.weight"] = generator["enc_p.emb.weight"].at[3, 2].set(jnp.nan)
        return state

    directory = tmp_path_factory.mktemp("broken")
    dataset = write_dataset(directory / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Start, "state", with_a_nan)
        return loop.train(small(dataset, directory / "run", max_steps=0)).run_dir


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (infer, ["--checkpoint", "RUN", "--output-dir", "OUT", "--phoneme-ids", "1 0 5 0 2"]),
        (export_onnx, ["RUN", "OUT/voice.onnx"]),
        (voice_conversion, ["--checkpoint=RUN", "--from-speaker=0", "--to-speaker=1", "IN.wav",
                            "OUT/out.wav"]),
    ],
    ids=["infer", "export_onnx", "voice_conversion"],
)  # fmt: skip
def test_refused(
    broken: Path, tmp_path: Path, capsys, command: Callable[[Sequence[str]], int], argv: list[str]
):
    soundfile.write(tmp_path / "IN.wav", np.ones(RATE), RATE)
    names = {"RUN": str(broken), "OUT": str(tmp_path / "out"), "IN.wav": str(tmp_path / "IN.wav")}
    words = [re.sub("RUN|OUT|IN.wav", lambda found: names[found[0]], word) for word in argv]
    assert command(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {broken / 'checkpoints' / '0'}: the voice's weights are not finite (1 of 570 "
        "tensors, such as enc_p.emb.weight): use a checkpoint from before it was broken"
    )
    assert not (tmp_path / "out").exists()
