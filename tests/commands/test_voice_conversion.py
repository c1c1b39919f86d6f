"""The command: a recording in another speaker's voice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vits_jax.voice
from tests.runs import HOP, RATE, no_room
from tests.voice import test_voice
from vits_jax.commands.voice_conversion import main

FLAGS = ["--checkpoint", "run", "--from-speaker", "ann", "--to_speaker", "1"]


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vits_jax.voice, "load", lambda *where, **which: test_voice.voice())


def write(path: Path, rate: int, channels: int = 1) -> Path:
    seconds = np.arange(int(0.2 * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * 220 * seconds)
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate)
    return path


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (22050, 2), (44100, 1)])
def test_any_rate(tmp_path: Path, rate: int, channels: int) -> None:
    source, target = write(tmp_path / "in.wav", rate, channels), tmp_path / "deep" / "out.wav"
    assert main([*FLAGS, str(source), str(target)]) == 0
    info = soundfile.info(target)
    assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
    assert info.frames == int(0.2 * RATE) // HOP * HOP
    samples, _ = soundfile.read(target, dtype="int16")
    assert np.abs(samples).max() >= 32766


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], (True, False)), (["--no-ema"], (False, False)), (["--best"], (True, True))],
)
def test_which_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: tuple[bool, bool],
) -> None:
    asked: list[tuple[bool, bool]] = []

    def load(*where: object, ema: bool, best: bool) -> vits_jax.voice.Voice:
        asked.append((ema, best))
        return test_voice.voice()

    monkeypatch.setattr(vits_jax.voice, "load", load)
    source = write(tmp_path / "in.wav", RATE)
    assert main([*FLAGS, *words, str(source), str(tmp_path / "out.wav")]) == 0
    assert asked == [expected]


def test_whose_voice_it_is(tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", RATE)
    audio, _ = soundfile.read(source, dtype="float32")
    assert main([*FLAGS, str(source), str(tmp_path / "out.wav")]) == 0
    expected = test_voice.voice().convert(audio, 0, 1)
    samples, _ = soundfile.read(tmp_path / "out.wav", dtype="int16")
    np.testing.assert_allclose(samples / 32767, expected / np.abs(expected).max(), atol=1e-4)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["in.wav"], "the following arguments are required: OUT.wav"),
        (["in.wav", "out.wav", "--from-speaker", "eve"], "no speaker 'eve' in this voice"),
        (["in.wav", "out.wav", "--to-speaker", "2"], "speaker id 2: expected one from 0 to 1"),
        (["in.wav", "out.wav", "--seed=-1"], "seed -1: expected a whole number"),
        (["absent.wav", "out.wav"], "absent.wav: "),
        (["text.wav", "out.wav"], "text.wav: undecodable"),
        (["short.wav", "out.wav"], "the recording has 8 samples at 8000 Hz: expected at least"),
        (["in.wav", "in.wav/out.wav"], "is not a directory"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, argv, expected) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.wav", RATE)
    (tmp_path / "text.wav").write_text("this is no audio")
    soundfile.write(tmp_path / "short.wav", np.zeros(8), RATE)
    before = sorted(tmp_path.iterdir())
    assert main([*FLAGS, *argv]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


def test_one_speaker_has_nobody_to_convert_to(tmp_path, monkeypatch, capsys) -> None:
    voice = test_voice.voice()
    single = dataclasses.replace(voice, config=voice.config.replaced({"num_speakers": 1}))
    monkeypatch.setattr(vits_jax.voice, "load", lambda *where, **which: single)
    assert main([*FLAGS, str(write(tmp_path / "in.wav", RATE)), str(tmp_path / "out.wav")]) == 2
    assert "this voice has one speaker" in capsys.readouterr().err
    assert not (tmp_path / "out.wav").exists()


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, capsys) -> None:
    source = write(tmp_path / "in.wav", RATE)
    with no_room(100):
        assert main([*FLAGS, str(source), str(tmp_path / "out.wav")]) == 2
    assert f"{tmp_path / 'out.wav'}: cannot be written: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]
