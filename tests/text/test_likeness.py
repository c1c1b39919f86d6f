"""Symbols that sound alike, by PanPhon's features."""

from __future__ import annotations

import sys

import pytest

from vits_jax.text.likeness import NoPhonetics, nearest_by_sound

ENGLISH = [*"_^$ ,.ˈːabdefhijklmnopstuvwxzðŋɑɔəɛɜɡɪɹʃʊʌʒθ"]


def test_without_panphon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "panphon", None)
    with pytest.raises(NoPhonetics):
        nearest_by_sound(["y"], ["i"])


@pytest.fixture(scope="module")
def nearest() -> dict[str, str]:
    pytest.importorskip("panphon")
    new = [*"yøœɤɲɸβɟʎɯʁqχɾʂɚɝᵻgˌˑ", "ã", "ẽ", "ʲ", "1", "?", "tʃ"]
    return nearest_by_sound(new, [*ENGLISH, "dʒ", "aɪ"])


@pytest.mark.parametrize(
    ("symbol", "like"),
    [
        *(("y", "u"), ("ø", "e"), ("ɤ", "ʌ"), ("ã", "a"), ("ẽ", "e")),
        *(("ɲ", "ŋ"), ("ʎ", "l"), ("q", "k"), ("β", "v"), ("ɸ", "f"), ("ʂ", "ʃ")),
        *(("ɚ", "ə"), ("ɝ", "ɜ"), ("g", "ɡ"), ("tʃ", "dʒ")),
        *(("ˌ", "ˈ"), ("ˑ", "ː")),
    ],
)
def test_nearest(nearest: dict[str, str], symbol: str, like: str) -> None:
    assert nearest[symbol] == like


def test_what_is_no_sound_is_left_out(nearest: dict[str, str]) -> None:
    assert nearest.keys().isdisjoint({"1", "?", "ʲ"})
    assert nearest_by_sound(["a"], ["!", "aɪ"]) == {}


def test_vowels_are_like_vowels(nearest: dict[str, str]) -> None:
    assert set(map(nearest.get, "øœᵻ")) <= set("aeiouəɛɜɪɔʊʌɑ")
    assert set(map(nearest.get, "ɟʎʁχɾ")).isdisjoint("aeiouəɛɜɪɔʊʌɑ")
