"""The ``language`` block of a voice, as published Piper voices have it.

Names and regions are those of Unicode's CLDR, by Babel. Where published voices or espeak-ng
say something else, a table below does too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.core import get_global

# A language tag (RFC 5646) as far as it matters here; espeak-ng adds dialects of its own.
_TAG = re.compile(r"([a-z]{2,4})(?:-([a-z]{4}))?(?:-([a-z]{2}|[0-9]{3}))?(?:-.*)?")

# Phonemizers that speak one language, whatever espeak voice is named beside them.
_PHONEMIZERS = {"pinyin": "zh", "hebrew": "he", "japanese": "ja", "thai": "th"}

# Languages under another code than espeak-ng's.
_FAMILIES = {
    "nb": "no",  # as published voices
    "piqd": "tlh",  # espeak-ng has the code of its script
}

# Regions of voices that do not name one, where it is not the likeliest one by CLDR.
_REGIONS = {
    "en": "GB",  # espeak-ng's `en` is British
    "pt": "PT",  # and its `pt` European
    "es-419": "MX",  # published voices; espeak-ng's own second name for it is es-mx
    "ar": "JO",  # published voices
    "sw": "CD",
    # Letters that look like a region's: Balearic, North-western, Valencian, Classic.
    "ca-ba": "ES",
    "ca-nw": "ES",
    "ca-va": "ES",
    "ru-cl": "RU",
}

# Languages that espeak-ng speaks and CLDR has no name for.
_NAMES = {
    "hyw": "Western Armenian",
    "mto": "Totontepec Mixe",
    "nci": "Classical Nahuatl",
    "py": "Pyash",
    "qdb": "Lang Belta",
    "qya": "Quenya",
    "sjn": "Sindarin",
    "xex": "Xextan",
}

# English names under which published voices are listed, where CLDR has newer ones.
_PUBLISHED_NAMES = {"bn": "Bengali", "fa": "Farsi", "ku": "Kurmanji Kurdish"}
_PUBLISHED_COUNTRIES = {
    "CD": "Democratic Republic of the Congo",
    "CZ": "Czech Republic",
    "GB": "Great Britain",
    "TR": "Turkey",
}
_WORLD = "001"  # constructed languages have no country


def language_block(voice: str, phoneme_type: str = "espeak") -> dict[str, str]:
    """The ``language`` of a voice's JSON.

    Args:
        voice: espeak-ng's voice (``en-us``, ``en-gb-x-rp``), or another language tag
          (``nl_BE``).
        phoneme_type: phonemizers for single languages know better than `voice`.

    Returns:
        ``code``, such as ``en_US``, and its parts: ``family``, ``region``, ``name_native``,
        ``name_english``, ``country_english``. ``code`` alone, `voice` as it is, for what is no
        known language.
    """
    tag = voice.rpartition("/")[2].partition("+")[0].replace("_", "-").lower()
    family, region = _parts(tag)
    spoken = _PHONEMIZERS.get(phoneme_type, family)
    if family != spoken:
        family, region = _parts(spoken)
    english = Locale("en")
    name = _PUBLISHED_NAMES.get(family) or english.languages.get(family) or _NAMES.get(family)
    country = _PUBLISHED_COUNTRIES.get(region) or english.territories.get(region)
    if name is None or country is None:
        return {"code": voice}
    return {
        "code": f"{family}_{region}",
        "family": family,
        "region": region,
        "name_native": _capitalized(_native_name(family) or name),
        "name_english": name,
        "country_english": _capitalized(country),
    }


def with_language_block(config: Mapping[str, Any]) -> dict[str, Any]:
    """A voice's JSON whose ``language`` is whole.

    Piper's trainer, and ours before, wrote ``{"code": "en-us"}``: espeak-ng's voice. A block
    that says more than a code is left as it is.
    """
    language, espeak = config.get("language") or {}, config.get("espeak") or {}
    if not isinstance(language, dict) or not isinstance(espeak, dict) or set(language) - {"code"}:
        return dict(config)
    voice = language.get("code") or espeak.get("voice")
    if not voice:
        return dict(config)
    block = language_block(str(voice), str(config.get("phoneme_type") or "espeak"))
    return dict(config) | {"language": block}


def _parts(tag: str) -> tuple[str, str]:
    """Language and region of a lower-case tag; both empty where it is none."""
    match = _TAG.fullmatch(tag)
    if match is None:
        return "", ""
    language, script, region = match.groups()
    alias = _FAMILIES.get(language) or get_global("language_aliases").get(language, language)
    family = alias.partition("_")[0]
    likely = get_global("likely_subtags")
    whole = likely.get(f"{family}_{(script or '').title()}") or likely.get(family) or _WORLD
    return family, _REGIONS.get(tag) or (region or whole.rpartition("_")[2]).upper()


def _native_name(family: str) -> str | None:
    try:
        return Locale(family).languages.get(family)
    except UnknownLocaleError:
        return None


def _capitalized(name: str) -> str:
    # Title case, as Georgian has capitals that nobody writes.
    return name[:1].title() + name[1:]
