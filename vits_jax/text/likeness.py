"""Which symbol of another set sounds most like one: by articulatory features.

The features are those of PanPhon (Mortensen et al. 2016), from the extra ``[phonetics]``: height,
backness and rounding of vowels, place, manner and voicing of consonants, length, nasality, as it
weighs them. It is imported when it is first needed, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Of espeak-ng's letters, those that PanPhon does not know, and what they stand for.
_SPELT = {"g": "ɡ", "ɚ": "ə", "ɝ": "ɜ", "ᵻ": "ɨ"}
# Marks that say more or less of the same; they have no features of their own.
_MARKS = ({"ˈ", "ˌ"}, {"ː", "ˑ"})


class NoPhonetics(Exception):
    """PanPhon is not installed."""


def nearest_by_sound(symbols: Iterable[str], among: Iterable[str]) -> dict[str, str]:
    """For each of `symbols` the one of `among` that it sounds most like; of equals the first.

    Symbols of several segments (``aɪ``) are compared with those of as many. What is no sound
    (punctuation, digits, most diacritics), or has none to be compared with, is left out.

    Raises:
        NoPhonetics: PanPhon is not installed.
    """
    try:
        from panphon import FeatureTable
    except ImportError:
        raise NoPhonetics from None
    table, among = FeatureTable(), list(among)
    segments = {symbol: found for symbol in among if (found := _segments(table, symbol))}
    nearest = {}
    for symbol in symbols:
        mark = next((kin for kin in _MARKS if symbol in kin), set())
        kin = next((other for other in among if other in mark), None)
        own, spelt = _segments(table, symbol), _spelt(symbol)
        distances = {
            other: sum(a.weighted_distance(b) for a, b in zip(own, theirs))
            for other, theirs in segments.items()
            if len(theirs) == len(own)
        }
        if kin is not None:
            nearest[symbol] = kin
        elif own and distances:
            # Some letters have the features of others: ɜ those of ə.
            nearest[symbol] = min(distances, key=lambda x: (distances[x], x != spelt))
    return nearest


def _segments(table: Any, symbol: str) -> list[Any]:
    """PanPhon's segments of a symbol; none where it does not know all of it."""
    spelt = _spelt(symbol)
    found = table.ipa_segs(spelt)
    whole = "".join(found) == table.normalize(spelt)
    return [table.fts(segment) for segment in found] if whole else []


def _spelt(symbol: str) -> str:
    return "".join(_SPELT.get(letter, letter) for letter in symbol)
