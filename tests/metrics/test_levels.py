"""Loudness, clipping, silence, tempo of sounds that are built for it."""

from __future__ import annotations

import numpy as np
import pytest

from vits_jax.metrics import Clip
from vits_jax.metrics.levels import clipping, loudness, silence, tempo

RATE = 48000


def tone(seconds: float, level: float = 0.1, hertz: float = 997.0) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def one(function, audio: np.ndarray, text: str | None = None) -> float:
    (value,) = function([Clip(audio, RATE, text)])
    return float(value)


def test_loudness_is_that_of_the_standard():
    """BS.1770: 997 Hz at full scale in one channel is -3.01 LUFS."""
    assert one(loudness, tone(2, 1.0)) == pytest.approx(-3.01, abs=0.1)


@pytest.mark.parametrize("seconds", [2.0, 0.2])
@pytest.mark.parametrize("decibels", [-12.0, -3.0, 6.0])
def test_loudness_moves_as_the_level_does(seconds: float, decibels: float):
    """Of a clip that is shorter than a gating block, too."""
    quiet, other = tone(seconds), 10 ** (decibels / 20) * tone(seconds)
    assert one(loudness, other) - one(loudness, quiet) == pytest.approx(decibels, abs=1e-3)
    assert one(loudness, quiet) == pytest.approx(-23.0, abs=0.5)


def test_silence_has_no_loudness():
    assert np.isnan(one(loudness, np.zeros(RATE)))
    assert np.isnan(one(loudness, tone(0.01)))


def test_clipping_counts_runs_at_full_scale():
    audio = tone(1)
    assert one(clipping, audio) == 0
    audio[100:110] = 1.0
    audio[200:203] = -1.0
    audio[300:302] = 1.0  # two are a peak
    audio[-3:] = 1.0
    assert one(clipping, audio) == pytest.approx(100 * (10 + 3 + 3) / RATE)
    assert one(clipping, np.ones(1)) == 0


def test_silence_counts_frames():
    audio = np.concatenate([np.zeros(RATE // 4), tone(0.5), np.zeros(RATE // 4)])
    assert one(silence, audio) == pytest.approx(50)
    noisy = audio + 0.02 * tone(1.0, hertz=50)  # 34 dB below is not silent
    assert one(silence, noisy) == 0
    assert one(silence, np.zeros(RATE)) == 100


def test_tempo_counts_letters_of_speech():
    audio = np.concatenate([np.zeros(RATE // 2), tone(2), np.zeros(RATE // 4)])
    assert one(tempo, audio, "Zwölf, 24 Äpfel!") == pytest.approx(12 / 2)
    assert np.isnan(one(tempo, audio))
    assert np.isnan(one(tempo, audio, "…"))
