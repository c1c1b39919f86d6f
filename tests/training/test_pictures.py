"""Pictures of speech: their sizes, what is where in them, and what is not finite."""

from __future__ import annotations

import io

import jax.numpy as jnp
import numpy as np
from PIL import Image

from vits_jax.model.audio import mel_spectrogram
from vits_jax.presets import preset
from vits_jax.training import pictures


def test_mels_are_those_of_training():
    audio = preset("medium").audio
    sound = np.random.default_rng(1).normal(size=10 * audio.hop_length).astype(np.float32) / 10
    ours = pictures.log_mel(sound, audio)
    theirs = np.asarray(mel_spectrogram(jnp.asarray(sound[None]), audio))[0]
    np.testing.assert_allclose(ours[: len(theirs)], theirs, atol=1e-3)


def test_high_frequencies_are_on_top_and_loud_is_bright():
    values = np.full((5, 8), -10.0)
    values[2, 7] = 0.0
    picture = pictures.mel(values)
    assert picture.shape == (8, 5, 3)
    brightness = picture.sum(axis=2)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (0, 2)


def test_phonemes_rise_with_time():
    picture = pictures.alignment(np.array([2, 0, 3]), 100, scale=1).sum(axis=2)
    bright = picture > picture.min()
    assert bright.astype(int).tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]


def test_a_broken_model_that_asks_for_hours_makes_a_picture_of_the_width():
    durations = np.full(100, 1 << 30, np.int32)
    picture = pictures.alignment(durations, 50)
    assert picture.shape == (200, 50, 3)


def test_what_is_not_finite_is_dark():
    values = np.full((4, 6), np.nan, np.float32)
    assert pictures.mel(values).max() <= 4
    values[1] = 0.0
    pictures.mel(values)


def test_a_png_file_holds_it():
    sheet = pictures.below([np.zeros((2, 3, 3), np.uint8), np.full((4, 5, 3), 9, np.uint8)])
    found = np.asarray(Image.open(io.BytesIO(pictures.png(sheet))))
    np.testing.assert_array_equal(found, sheet)
    assert found.shape == (2 + 4 + 4, 5, 3)
