"""Spectrogram and mel against Piper's, also at an utterance's own end inside a padded batch."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch

from tests.parity import oracle
from tests.parity.comparing import assert_close
from vits_jax.config import AudioConfig
from vits_jax.model.audio import dequantise, mel_from_spectrogram, mel_spectrogram, spectrogram
from vits_jax.presets import preset

BOUND = 1e-5
CONFIGS = {
    "piper-22050": AudioConfig(),
    "piper-16000": AudioConfig(sample_rate=16000),
    "high-44k": dataclasses.replace(preset("high-44k").audio, sample_rate=44100),
    "high-48k": dataclasses.replace(preset("high-48k").audio, sample_rate=48000),
    "short-window": AudioConfig(
        sample_rate=8000,
        filter_length=128,
        hop_length=32,
        win_length=96,
        mel_channels=12,
        mel_fmin=60.0,
        mel_fmax=3400.0,
    ),
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> AudioConfig:
    return CONFIGS[request.param]


def utterances(config: AudioConfig) -> tuple[np.ndarray, np.ndarray]:
    """Loud, quiet and silent ones: [B, F * hop] int16 and lengths that no hop divides."""
    rng = np.random.default_rng(0)
    hop = config.hop_length
    lengths = np.array([12 * hop, 9 * hop + hop // 2, config.min_samples, 7 * hop + 1], np.int32)
    audio = np.zeros((4, 12 * hop), np.int16)
    for row, scale in enumerate((32767, 3000, 40, 0)):
        wave = rng.uniform(-1, 1, lengths[row]) * scale
        audio[row, : lengths[row]] = wave.round()
    return audio, lengths


def test_spectrogram_and_mel_of_padded_rows(config: AudioConfig) -> None:
    audio, lengths = utterances(config)
    got = jax.jit(lambda a, n: spectrogram(dequantise(a), n, config))(audio, lengths)
    expected = oracle.spectrograms(config, {"audio": audio, "audio_lengths": lengths})
    assert_close(got, expected.transpose(1, 2).numpy(), BOUND)
    for row, length in enumerate(lengths // config.hop_length):
        assert_close(got[row, :length], expected[row, :, :length].T.numpy(), BOUND, f"row {row}")
        # An error at the very end would drown in the whole.
        assert_close(got[row, length - 1], expected[row, :, length - 1].numpy(), BOUND, "end")
        assert not np.any(got[row, length:])

    mels = jax.jit(lambda s: mel_from_spectrogram(s, config))(got)
    assert_close(mels, oracle.mel(config, expected).transpose(1, 2).numpy(), BOUND)


def test_mel_of_a_generated_segment(config: AudioConfig) -> None:
    signal = np.random.default_rng(1).uniform(-1, 1, (2, 8 * config.hop_length))
    signal = signal.astype(np.float32)
    got = jax.jit(lambda s: mel_spectrogram(s, config))(signal)
    expected = oracle.mel_of_signal(config, torch.tensor(signal))
    assert_close(got, expected.transpose(1, 2).numpy(), BOUND)


def test_float64_is_float64_throughout(x64: None) -> None:
    config = CONFIGS["short-window"]
    signal = np.random.default_rng(1).uniform(-1, 1, (2, 8 * config.hop_length))
    got = jax.jit(lambda s: mel_spectrogram(s, config))(signal)
    expected = oracle.mel_of_signal(config, torch.tensor(signal))
    assert_close(got, expected.transpose(1, 2).numpy(), 1e-13)
