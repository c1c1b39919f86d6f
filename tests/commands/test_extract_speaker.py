"""The command: from a run to a voice of one speaker that Piper's runtime plays."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from piper import PiperVoice

import vits_jax
from tests.checkpoints.piper.ckpts import SEVERAL, ckpt, write
from tests.parity.comparing import assert_close
from tests.runs import HOP, no_room
from tests.voice import test_voice
from vits_jax.checkpoints.saving import write_new
from vits_jax.checkpoints.store import Metadata
from vits_jax.commands.__main__ import main as vits_jax_script
from vits_jax.commands.export_onnx import main as export_onnx
from vits_jax.commands.extract_speaker import main
from vits_jax.model.networks import GENERATOR
from vits_jax.state import Position, TrainState
from vits_jax.voice import verify


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two speakers who say something: ann and bob."""
    voice, directory = test_voice.voice(), tmp_path_factory.mktemp("runs") / "two"
    metadata = Metadata(voice.config, Position(12), dict(voice.dataset), {})
    state = TrainState(np.array(12, np.int32), {GENERATOR: dict(voice.parameters)})
    write_new(directory, 12, state.to_dict(), metadata)
    return directory


def test_from_a_run_to_piper(
    run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vits_jax")
    out = tmp_path / "voices" / "bob"
    assert main([str(run_dir), "--speaker", "bob", str(out)]) == 0
    assert "dec.cond: is in dec.conv_pre.bias" in caplog.text
    cond_layer = "enc_q.enc.cond_layer: is in enc_q.enc.in_layers.0.bias … "
    assert f"{cond_layer}enc_q.enc.in_layers.15.bias (16)" in caplog.text
    assert "12: bob: " in caplog.text
    assert "34 with the speaker in them, 20 of speakers gone; weights alone" in caplog.text

    say = {"noise_scale": 0.0, "noise_w": 0.0}
    expected = test_voice.voice().synthesize(test_voice.IDS, "bob", **say)
    one = vits_jax.load(out)
    assert (one.config.model.num_speakers, one.speakers) == (1, {})
    audio = one.synthesize(test_voice.IDS, **say)
    assert_close(audio, expected, 1e-5)

    exported = tmp_path / "bob.onnx"
    assert export_onnx([str(out), str(exported)]) == 0
    feed = verify.feed(np.asarray(test_voice.IDS), 0, 1, (0.0, 1.0, 0.0))
    said = verify.session(onnx.load(exported)).run(None, feed)[0]
    assert_close(said[0, 0, 0], expected, 1e-4)
    papers = json.loads(Path(f"{exported}.json").read_text())
    assert (papers["num_speakers"], papers["speaker_id_map"]) == (1, {})
    (chunk,) = PiperVoice.load(exported).synthesize("ab ba")
    assert len(chunk.audio_float_array) > 10 * HOP


def test_a_ckpt_with_its_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "vits_jax")
    path = write(ckpt(SEVERAL, steps=1), tmp_path / "three.ckpt")
    config = {
        "audio": {"sample_rate": SEVERAL.audio.sample_rate},
        "num_symbols": SEVERAL.model.num_symbols,
        "num_speakers": 3,
        "speaker_id_map": {"ann": 0, "bob": 1, "eve": 2},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = ["extract-speaker", str(path), str(tmp_path / "out"), "--speaker", "ann=2,eve=1"]
    assert vits_jax_script(words) == 2
    assert "no speaker 'ann' in this voice: it has ids from 0 to 2" in capsys.readouterr().err
    words += ["--voice_config", str(tmp_path / "config.json")]
    assert vits_jax_script(words) == 0
    assert "1: 0.667 ann + 0.333 eve: " in caplog.text
    assert "weights alone" not in caplog.text  # so a run goes on from it


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["RUN", "out"], "the following arguments are required: --speaker"),
        (["RUN", "--speaker", "bob"], "the following arguments are required: OUT"),
        (["RUN", "out", "--speaker", "bop"], "--speaker bop: no speaker 'bop' in this voice: did "),
        (["RUN", "out", "--speaker", "2"], "--speaker 2: speaker id 2: expected one from 0 to 1"),
        (["RUN", "out", "--speaker", "bob=x"], "--speaker bob=x: 'bob=x': expected NAME=PART"),
        (["RUN", "out", "--speaker", "bob", "--bset"], "did you mean --best?"),
        (["absent", "out", "--speaker", "bob"], "absent: no such checkpoint"),
        (["RUN", "there", "--speaker", "bob"], "there: is there already, and is not overwritten"),
        (["RUN/checkpoints/12", "out", "--speaker", "0", "--best"], "expected a run directory"),
    ],
)
def test_bad_arguments(run_dir, tmp_path, monkeypatch, capsys, argv, expected) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert main([word.replace("RUN", str(run_dir)) for word in argv]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_full_disk_leaves_nothing(run_dir, tmp_path, capsys) -> None:
    with no_room(2_000):
        assert main([str(run_dir), str(tmp_path / "bob"), "--speaker", "bob"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("failed: ")
    assert list(tmp_path.iterdir()) == []
