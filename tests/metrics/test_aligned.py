"""Distances to a recording, where they are known."""

from __future__ import annotations

import numpy as np
import pytest
import pyworld

from tests.metrics.voices import glottal
from vits_jax.metrics import METRICS, Clip, aligned
from vits_jax.metrics.metric import Metric

RATE = 16000
OF_REFERENCE = [metric for metric in METRICS if "reference" in metric.needs]
NAMES = [metric.name for metric in OF_REFERENCE]


def recording(seconds: float = 1.5, rate: int = RATE) -> Clip:
    return Clip(glottal(seconds, rate, noise=1e-4), rate)


def taken(metric: Metric, clip: Clip) -> float:
    (value,) = metric.function([clip])
    return float(value)


@pytest.mark.parametrize("metric", OF_REFERENCE, ids=NAMES)
def test_a_recording_is_at_no_distance_from_itself(metric: Metric):
    one = recording()
    assert taken(metric, Clip(one.audio.copy(), RATE, reference=one)) == 0


@pytest.mark.parametrize("metric", OF_REFERENCE, ids=NAMES)
def test_silence_before_it_is_no_distance(metric: Metric):
    one, other = recording(), Clip(glottal(1.5, RATE, pitch=180, noise=0.03), RATE)
    delayed = np.concatenate([np.zeros(RATE // 5, np.float32), one.audio])
    late = taken(metric, Clip(delayed, RATE, reference=one))
    # By no whole number of frames: 0 is not to be had, and another voice is much further off.
    uneven = taken(metric, Clip(delayed[37:], RATE, reference=one))
    far = taken(metric, Clip(other.audio, RATE, reference=one))
    assert late == pytest.approx(0, abs=1e-9)
    assert uneven < 0.2 * far


@pytest.mark.parametrize("metric", OF_REFERENCE, ids=NAMES)
def test_without_a_recording_there_is_none(metric: Metric):
    assert np.isnan(metric.function([recording()])).all()


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_error_of_the_pitch_is_the_shift(factor: float):
    one = recording()
    audio = one.audio.astype(np.float64)
    pitch, times = pyworld.dio(audio, RATE)
    power = pyworld.cheaptrick(audio, pitch, times, RATE)
    noise = pyworld.d4c(audio, pitch, times, RATE)
    same, shifted = (
        Clip(pyworld.synthesize(f * pitch, power, noise, RATE).astype(np.float32), RATE)
        for f in (1, factor)
    )
    value = taken(OF_REFERENCE[NAMES.index("f0")], Clip(shifted.audio, RATE, reference=same))
    assert value == pytest.approx(abs(1200 * np.log2(factor)), abs=25)


def test_whispering_is_voiced_nowhere():
    one = recording()
    whispered = np.random.default_rng(0).normal(0, 0.1, len(one.audio)).astype(np.float32)
    clip = Clip(whispered, RATE, reference=one)
    assert taken(OF_REFERENCE[NAMES.index("voicing")], clip) > 50
    assert np.isnan(taken(OF_REFERENCE[NAMES.index("f0")], clip))  # no step is voiced in both


def test_cepstral_distortion_is_the_difference_of_the_levels_on_the_warped_axis():
    """Kubichek's constants make it decibels: the root of the mean over the warped frequency."""
    random = np.random.default_rng(0)
    a, b = random.normal(0, 0.3, (2, 1 + aligned.CEPSTRA))
    a[0] = b[0]  # levels as such are left out
    bins = 513
    omega = np.pi * np.arange(bins) / (bins - 1)
    warped = omega + 2 * np.arctan(
        aligned.WARPING * np.sin(omega) / (1 - aligned.WARPING * np.cos(omega))
    )
    waves = np.cos(np.outer(np.arange(1 + aligned.CEPSTRA), warped))  # [order, bins]
    power = np.exp(2 * np.stack([a, b]) @ waves)
    cepstra = aligned.mel_cepstra(power)
    np.testing.assert_allclose(cepstra, [a, b], atol=1e-6)
    grid = np.cos(np.outer(np.arange(1 + aligned.CEPSTRA), np.pi * (np.arange(4096) + 0.5) / 4096))
    decibels = 20 / np.log(10) * (a - b) @ grid
    ours = 10 / np.log(10) * np.sqrt(2 * np.square(cepstra[0] - cepstra[1])[1:].sum())
    assert ours == pytest.approx(np.sqrt(np.mean(np.square(decibels))), rel=1e-6)


def test_another_rate_is_no_great_distance():
    high = Clip(glottal(1.0, 22050), 22050)
    clip = Clip(aligned.resampled(high, RATE), RATE, reference=high)
    assert taken(OF_REFERENCE[NAMES.index("mcd")], clip) < 1
    assert taken(OF_REFERENCE[NAMES.index("f0")], clip) < 20


def test_the_mel_spectrogram_is_the_one_that_is_trained_on():
    from vits_jax.config import AudioConfig
    from vits_jax.metrics.spectra import log_mel
    from vits_jax.model import audio

    config = AudioConfig()
    samples = glottal(0.5, config.sample_rate)
    theirs = np.asarray(audio.mel_spectrogram(samples[None], config))[0]
    np.testing.assert_allclose(log_mel(samples, config.sample_rate), theirs, atol=2e-3)
