"""Texts as recognisers write them, and how far two are apart."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+|\d+")


def normalised(text: str) -> str:
    """Lower case, letters and apostrophes alone, one space between words.

    Whole numbers are spelled as English says them (``1,234``: one thousand two hundred thirty
    four; a year too, and each side of a decimal point); accents are taken off; all else, hyphens
    too, is a space. Nothing is done about abbreviations, currencies or ordinals.
    """
    spelled = _NUMBER.sub(lambda found: f" {spell(int(found[0].replace(',', '')))} ", text)
    plain = unicodedata.normalize("NFKD", spelled.replace("’", "'")).lower()
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    words = re.sub(r"[^\w']|[\d_]", " ", plain).split()
    return " ".join(word for word in (word.strip("'") for word in words) if word)


def spell(number: int) -> str:
    """A whole number from 0 in English words; from 10¹² on, its digits."""
    if number >= 10**12:
        return " ".join(_ONES[int(digit)] for digit in str(number))
    if number < 20:
        return _ONES[number]
    if number < 100:
        rest = f" {_ONES[number % 10]}" if number % 10 else ""
        return _TENS[number // 10] + rest
    size, name = next(scale for scale in _SCALES if number >= scale[0])
    rest = f" {spell(number % size)}" if number % size else ""
    return f"{spell(number // size)} {name}{rest}"


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions from `a` to `b` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            best = min(diagonal + (x != y), row[j] + 1, row[j - 1] + 1)
            diagonal, row[j] = row[j], best
    return row[-1]
