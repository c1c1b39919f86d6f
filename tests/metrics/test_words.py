"""What a recogniser's words are held against."""

from __future__ import annotations

import numpy as np
import pytest

from vits_jax.metrics import Clip, recognition
from vits_jax.metrics.words import edits, normalised, spell


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("It’s the dogs' 'bone'.", "it's the dogs bone"),
        ("well-known café", "well known cafe"),
        ("in 1,234 of 20 cases", "in one thousand two hundred thirty four of twenty cases"),
        ("3.5 m", "three five m"),
        ("_ — …", ""),
    ],
)
def test_texts_are_made_alike(text: str, expected: str):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (21, "twenty one"),
        (100, "one hundred"),
        (1900, "one thousand nine hundred"),
        (1_000_005, "one million five"),
        (10**12, "one" + " zero" * 12),
    ],
)
def test_numbers_are_spelled(number: int, words: str):
    assert spell(number) == words


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [("", "", 0), ("abc", "abc", 0), ("kitten", "sitting", 3), ("", "ab", 2), ("ab", "", 2)],
)
def test_edits(a: str, b: str, expected: int):
    assert edits(a, b) == edits(b, a) == expected


def test_errors_are_shares_of_the_text(monkeypatch: pytest.MonkeyPatch):
    heard = {"same": "the cat sat", "one": "the mat sat", "none": "", "more": "a b c d e f"}
    monkeypatch.setattr(recognition, "heard", lambda clip: heard[clip.name])
    audio = np.zeros(10, np.float32)
    clips = [Clip(audio, 16000, "The cat sat.", name=name) for name in heard]
    words = recognition.word_errors([*clips, Clip(audio, 16000), Clip(audio, 16000, "!")])
    np.testing.assert_allclose(words, [0, 100 / 3, 100, 200, np.nan, np.nan])
    characters = recognition.character_errors(clips[:3])
    np.testing.assert_allclose(characters, [0, 100 / 11, 100])


def test_of_silence_nothing_is_heard():
    silent = Clip(np.zeros(8000, np.float32), 16000, "hello")
    assert recognition.heard(silent) == ""
    assert recognition.word_errors([silent]) == [100]
