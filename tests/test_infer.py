"""The command: JSON lines, or a text, to WAV files."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vits_jax
import vits_jax.voice
from tests.runs import RATE, SYMBOLS, small, write_dataset
from vits_jax.infer import main
from vits_jax.training.loop import train

LINES = [
    {"phoneme_ids": [1, 0, 5, 0, 9, 0, 2], "speaker_id": 1, "text": "not looked at"},
    {"phoneme_ids": [1, 0, 7, 0, 8, 0, 12, 0, 2], "speaker_id": 0},
    {"phoneme_ids": [1, 0, 7, 0, 2]},
]


@pytest.fixture
def loaded_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes a second: only the tests that are about it do it again."""
    monkeypatch.setattr(vits_jax.voice, "load", lambda checkpoint: _load_once(run_dir))


_load_once = functools.cache(vits_jax.voice.load)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("infer")
    dataset = write_dataset(directory / "data")
    return train(small(dataset, directory / "run", max_steps=0)).run_dir


def speak(monkeypatch: pytest.MonkeyPatch, text: str, *argv: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(argv)


def lines(*entries: dict) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_lines_to_wavs(run_dir: Path, tmp_path: Path, monkeypatch):
    text = lines(*LINES[:2]) + "\n" + lines(LINES[2])
    out = tmp_path / "deep" / "out"
    assert speak(monkeypatch, text, "--checkpoint", str(run_dir), "--output-dir", str(out)) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0.wav", "1.wav", "3.wav"]
    voice = vits_jax.load(run_dir)
    for name, line in zip(("0", "1", "3"), LINES, strict=True):
        info = soundfile.info(out / f"{name}.wav")
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        written, _ = soundfile.read(out / f"{name}.wav", dtype="int16")
        assert np.abs(written).max() >= 32766  # truncated, as Piper does
        audio = voice.synthesize(line["phoneme_ids"], line.get("speaker_id"))
        np.testing.assert_allclose(written / 32767, audio / np.abs(audio).max(), atol=1e-4)


def test_scales_and_seed(run_dir: Path, tmp_path: Path, monkeypatch, loaded_once):
    checkpoint = f"--checkpoint={run_dir}"
    for name, more in {"a": [], "b": ["--seed=1"], "c": ["--length_scale", "3"]}.items():
        assert speak(
            monkeypatch, lines(LINES[0]), checkpoint, f"--output_dir={tmp_path / name}", *more
        ) == 0  # fmt: skip
    a, b, c = (soundfile.read(tmp_path / name / "0.wav")[0] for name in "abc")
    assert len(c) > 2 * len(a)
    assert not np.array_equal(a[:100], b[:100])


def test_a_text(run_dir: Path, tmp_path: Path, monkeypatch, loaded_once):
    where = ["--checkpoint", str(run_dir), "--output-dir"]
    assert main([*where, str(tmp_path / "text"), "--text", "abc", "--speaker-id", "1"]) == 0
    ids = [1, 0, *[i for letter in "abc" for i in (SYMBOLS.index(letter), 0)], 2]
    same = lines({"phoneme_ids": ids, "speaker_id": 1})
    assert speak(monkeypatch, same, *where, str(tmp_path / "ids")) == 0
    assert (tmp_path / "text" / "0.wav").read_bytes() == (tmp_path / "ids" / "0.wav").read_bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (lines(LINES[0]) + "{not json}\n", "stdin:2: broken JSON"),
        (lines(LINES[0], {"ids": [1]}), "stdin:2: no key 'phoneme_ids'"),
        ("[1, 2]\n", "stdin:1: expected a JSON object, got list"),
        ("\n" + lines({"phoneme_ids": []}), "stdin:2: phoneme_ids: expected a list"),
        (lines({"phoneme_ids": [999]}), "stdin:1: phoneme id 999: expected ids from 0 to"),
        (lines({"phoneme_ids": "abc"}), "stdin:1: phoneme_ids: expected a list"),
        (lines({"phoneme_ids": [1], "speaker_id": 9}), "stdin:1: speaker id 9: expected one"),
        ("\n", "stdin: no lines"),
    ],
)
def test_bad_lines_leave_nothing_behind(
    run_dir, tmp_path, monkeypatch, capsys, loaded_once, text, expected
):
    out = tmp_path / "out"
    assert speak(monkeypatch, text, "--checkpoint", str(run_dir), "--output-dir", str(out)) == 2
    captured = capsys.readouterr().err.splitlines()[-1]
    assert captured.startswith(f"error: {expected}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--output-dir", "x"], "the following arguments are required: --checkpoint"),
        (["--checkpoint", "absent", "--output-dir", "x"], "absent: no such checkpoint"),
        (["--checkpoint", "absent.ckpt", "--output-dir", "x"], "absent.ckpt: no such"),
        (["--chekpoint", "x", "--output-dir", "x", "--checkpoint", "y"], "mean --checkpoint?"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--speaker-id", "1"], "--speaker-id goes"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--noise-w", "x"], "invalid float"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--text", "a", "--seed=-1"], "seed -1"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--text", ""], "--text is empty"),
    ],
)
def test_bad_flags(run_dir, tmp_path, monkeypatch, capsys, argv, expected):
    names = {"RUN": str(run_dir), "OUT": str(tmp_path / "out")}
    assert speak(monkeypatch, lines(LINES[0]), *[names.get(word, word) for word in argv]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
