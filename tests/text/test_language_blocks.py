"""The `language` block: for every voice of espeak-ng, and as published Piper voices have it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import piper
import pytest
import wyoming_piper

from tests.data.tones import config
from vits_jax.data.voice_config import read_config
from vits_jax.text.languages import language_block, with_language_block
from vits_jax.text.phonemes import PHONEME_TYPES

KEYS = ["code", "family", "region", "name_native", "name_english", "country_english"]
ESPEAK_VOICES = sorted(
    path.name.lower()
    for path in (Path(piper.__file__).parent / "espeak-ng-data" / "lang").rglob("*")
    if path.is_file()
)
US = dict(zip(KEYS, ["en_US", "en", "US", "English", "English", "United States"]))


def published() -> dict[str, dict[str, str]]:
    """The blocks of the published voices by code, as wyoming-piper lists them."""
    voices = json.loads((Path(wyoming_piper.__file__).parent / "voices.json").read_text("utf-8"))
    return {voice["language"]["code"]: voice["language"] for voice in voices.values()}


def test_every_voice_of_espeak_has_a_whole_block():
    assert len(ESPEAK_VOICES) > 130
    for voice in ESPEAK_VOICES:
        block = language_block(voice)
        assert list(block) == KEYS, voice
        assert all(block.values()), voice
        assert re.fullmatch(r"[a-z]{2,3}_([A-Z]{2}|[0-9]{3})", block["code"]), voice
        assert block["code"] == f"{block['family']}_{block['region']}"


# espeak-ng's voice, and the code of the published voices that speak with it.
SPOKEN = """
    ar ar_JO, bg bg_BG, bn bn_BD, ca ca_ES, cs cs_CZ, cy cy_GB, da da_DK, de de_DE, el el_GR,
    en-gb-x-rp en_GB, en-us en_US, es es_ES, es-419 es_MX, et et_EE, eu eu_ES, fa fa_IR, fi fi_FI,
    fr fr_FR, he he_IL, hi hi_IN, hu hu_HU, hy hy_AM, id id_ID, is is_IS, it it_IT, ka ka_GE,
    kk kk_KZ, ko ko_KR, ku ku_TR, lb lb_LU, lv lv_LV, ml ml_IN, mr mr_IN, ne ne_NP, nl nl_NL,
    nb no_NO, pl pl_PL, pt pt_PT, pt-br pt_BR, ro ro_RO, ru ru_RU, sk sk_SK, sl sl_SI, sq sq_AL,
    sr sr_RS, sv sv_SE, sw sw_CD, te te_IN, th th_TH, tr tr_TR, uk uk_UA, ur ur_PK, vi vi_VN,
    cmn zh_CN
"""
# No voice of espeak-ng says who speaks so; and "JA" is no region.
NOT_TOLD = {"es_AR", "nl_BE", "ja_JA"}
# Where CLDR writes a language's own name in another way.
OTHER_NATIVE_NAMES = {
    *("bg_BG", "et_EE", "hy_AM", "is_IS", "sq_AL"),  # small letters
    *("he_IL", "id_ID", "ka_GE", "kk_KZ", "ku_TR", "mr_IN", "sr_RS", "uk_UA", "zh_CN"),
}


def test_published_voices_have_the_same_block():
    theirs = published()
    spoken = dict(pair.split() for pair in SPOKEN.split(","))
    assert set(spoken) <= set(ESPEAK_VOICES)
    assert set(theirs) == set(spoken.values()) | NOT_TOLD
    different = set()
    for voice, code in spoken.items():
        ours = language_block(voice)
        if ours != theirs[code]:
            different.add(code)
            assert ours == theirs[code] | {"name_native": ours["name_native"]}, voice
    assert different == OTHER_NATIVE_NAMES
    for code in ("es_AR", "nl_BE"):  # but a user may say so
        assert language_block(code) == theirs[code]


@pytest.mark.parametrize(
    ("voice", "code"),
    [
        *(("en", "en_GB"), ("en-029", "en_029"), ("en-gb-scotland", "en_GB"), ("en-shaw", "en_GB")),
        *(("en-us-nyc", "en_US"), ("EN-US", "en_US"), ("gmw/en-US", "en_US"), ("en_US", "en_US")),
        *(("en-us+f3", "en_US"), ("fr-fr", "fr_FR"), ("fr-ch", "fr_CH"), ("fr-be", "fr_BE")),
        # Letters that look like a region's, and are none.
        *(("ca-ba", "ca_ES"), ("ca-nw", "ca_ES"), ("ca-va", "ca_ES"), ("ru-cl", "ru_RU")),
        *(("ru-lv", "ru_LV"), ("vi-vn-x-south", "vi_VN"), ("cmn-latn-pinyin", "zh_CN")),
        *(("yue", "yue_HK"), ("yue-latn-jyutping", "yue_HK"), ("zh-hant", "zh_TW")),
        *(("kok", "kok_IN"), ("fa-latn", "fa_IR"), ("chr-US-Qaaa-x-west", "chr_US")),
        *(("hyw", "hyw_AM"), ("grc", "grc_GR"), ("hbs", "sr_RS"), ("nb-NO", "no_NO")),
        *(("eo", "eo_001"), ("piqd", "tlh_001"), ("qdb", "qdb_001")),
    ],
)
def test_codes(voice: str, code: str):
    block = language_block(voice)
    assert (block["code"], list(block)) == (code, KEYS)


@pytest.mark.parametrize("voice", ["klingon", "xx", "de-xx", "English (America)", "x", ""])
def test_what_is_no_language_is_left_as_it_is(voice: str):
    assert language_block(voice) == {"code": voice}


def test_phonemizers_of_one_language_know_which():
    # The voice beside them is not looked at.
    codes = {kind: language_block("en-us", kind)["code"] for kind in PHONEME_TYPES}
    assert codes == {
        "espeak": "en_US",
        "text": "en_US",
        "pinyin": "zh_CN",
        "hebrew": "he_IL",
        "japanese": "ja_JP",
        "thai": "th_TH",
    }
    assert language_block("zh-tw", "pinyin")["code"] == "zh_TW"


def test_names_begin_with_a_capital_where_there_are_any():
    native = {voice: language_block(voice)["name_native"] for voice in ("es", "ka", "hi")}
    assert native == {"es": "Español", "ka": "ქართული", "hi": "हिन्दी"}
    assert language_block("eo")["country_english"] == "World"


WHOLE = {"code": "nl_BE", "family": "nl"}


@pytest.mark.parametrize(
    ("papers", "language"),
    [
        ({"language": {"code": "en-us"}, "espeak": {"voice": "en-us"}}, US),
        ({"language": {"code": "en_US"}, "espeak": {"voice": "en-gb-x-rp"}}, US),
        ({"espeak": {"voice": "en-us"}}, US),
        ({"language": None, "espeak": {"voice": "en-us"}, "phoneme_type": None}, US),
        (
            {"language": {"code": "en-us"}, "phoneme_type": "thai"},
            language_block("th"),
        ),
        ({"language": WHOLE, "espeak": {"voice": "en-us"}}, WHOLE),  # somebody's own
        ({"language": {"code": "klingon"}}, {"code": "klingon"}),
        ({"language": "en"}, "en"),
        ({"espeak": {"voice": ""}}, None),
        ({"espeak": "en-us"}, None),
        ({}, None),
    ],
)
def test_old_papers_are_mended(papers: dict[str, Any], language: Any):
    before = json.loads(json.dumps(papers))
    mended = with_language_block(papers)
    assert mended.pop("language", None) == language
    assert papers == before
    before.pop("language", None)
    assert mended == before


def test_a_prepared_directory_is_mended_when_it_is_read(tmp_path: Path):
    """One of Piper's trainer, or of ours before; the file stays as it is."""
    (tmp_path / "config.json").write_text(json.dumps(config(language={"code": "en-us"})))
    assert read_config(tmp_path).raw == config(language=US)
    assert json.loads((tmp_path / "config.json").read_text()) == config(language={"code": "en-us"})
