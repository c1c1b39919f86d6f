"""Phonemes and ids: the same as the runtime's, nothing dropped uncounted."""

from __future__ import annotations

import itertools
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vits_jax.errors import UserError
from vits_jax.text import default_phoneme_id_map, make_phonemizer, phonemes_to_ids

TEXTS = [
    "Hello.",
    "One sentence. Another one! And, finally: a third?",
    "No full stop at the end",
    "Dr. Smith paid $3.50; it was 1984.",
    "Ça va? — naïve café",
]


def test_a_sentence_is_start_pad_then_each_phoneme_and_a_pad_then_end():
    id_map = {"_": [0], "^": [1], "$": [2], "a": [7], "b": [8, 9]}
    assert phonemes_to_ids([["a", "b"]], id_map)[0] == [1, 0, 7, 0, 8, 9, 0, 2]


def test_sentences_follow_one_another():
    id_map = {"_": [0], "^": [1], "$": [2], "a": [7]}
    assert phonemes_to_ids([["a"], ["a"]], id_map)[0] == [1, 0, 7, 0, 2, 1, 0, 7, 0, 2]


def test_symbols_without_an_id_are_counted():
    ids, missing = phonemes_to_ids([["h", "€", "€", "i", "ж"]], default_phoneme_id_map())
    assert ids == [1, 0, 20, 0, 21, 0, 2]
    assert missing == {"€": 2, "ж": 1}


def test_map_is_pipers_without_multi_character_symbols():
    from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP

    ours = default_phoneme_id_map()
    left_out = set(DEFAULT_PHONEME_ID_MAP) - set(ours)
    assert left_out == {symbol for symbol in DEFAULT_PHONEME_ID_MAP if len(symbol) > 1}
    assert left_out
    assert all(DEFAULT_PHONEME_ID_MAP[symbol] == ids for symbol, ids in ours.items())


@pytest.mark.parametrize("voice", ["en-us", "de", "fr", "es", "ru"])
@pytest.mark.parametrize("text", TEXTS)
def test_espeak_ids_equal_pipers(voice: str, text: str):
    from piper.phoneme_ids import phonemes_to_ids as piper_ids
    from piper.phonemize_espeak import EspeakPhonemizer

    sentences = EspeakPhonemizer().phonemize(voice, text)
    expected = list(itertools.chain.from_iterable(map(piper_ids, sentences)))
    ids, _ = phonemes_to_ids(make_phonemizer("espeak", voice)(text), default_phoneme_id_map())
    assert ids == expected
    assert len(ids) > 5


@given(st.text(max_size=40))
def test_text_ids_equal_pipers(text: str):
    from piper.phoneme_ids import phonemes_to_ids as piper_ids

    symbols = list(unicodedata.normalize("NFD", text))
    ids, missing = phonemes_to_ids(make_phonemizer("text", "en-us")(text), default_phoneme_id_map())
    assert ids == piper_ids(symbols)
    assert missing.total() == sum(symbol not in default_phoneme_id_map() for symbol in symbols)


def test_two_voices_do_not_disturb_each_other():
    english, german = make_phonemizer("espeak", "en-us"), make_phonemizer("espeak", "de")
    before = english("One day")
    assert german("One day") != before
    assert english("One day") == before


def test_unknown_voice():
    with pytest.raises(UserError, match=r"'en_GB' is no voice of espeak-ng: use one such as en-us"):
        make_phonemizer("espeak", "en_GB")


def test_unknown_type():
    with pytest.raises(UserError, match=r"'klingon' is not known: use one of espeak, text"):
        make_phonemizer("klingon", "tlh")


def test_without_piper_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "piper.phonemize_espeak", None)
    monkeypatch.setitem(sys.modules, "piper.phoneme_ids", None)
    with pytest.raises(UserError, match=r"pip install 'vits_jax\[preprocess\]'"):
        make_phonemizer("espeak", "en-us")
    with pytest.raises(UserError, match=r"pip install 'vits_jax\[preprocess\]'"):
        default_phoneme_id_map()
