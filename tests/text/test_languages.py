"""Piper's test sentences, from corpus to ids, in every language that is here: as its runtime."""

from __future__ import annotations

import itertools
import json
import re
import sys
import types
from pathlib import Path

import pytest
from piper.config import PhonemeType, PiperConfig
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
from piper.voice import PiperVoice

from vits_jax.commands.preprocess import main
from vits_jax.errors import UserError
from vits_jax.text import (
    CannotPhonemize,
    default_phoneme_id_map,
    make_diacritizer,
    make_phonemizer,
    num_symbols,
    phonemes_to_ids,
    read_phoneme_id_map,
)

SENTENCES = Path(__file__).parent / "sentences"
VOICES = {"en": "en-us", "pt": "pt-br", "zh": "cmn"}  # espeak-ng calls the others as the files


def runtime(voice: str, phoneme_type: str = "espeak", tashkeel: bool = False) -> PiperVoice:
    """Piper's runtime, without a network: it makes ids of text."""
    config = PiperConfig(
        num_symbols=256,
        num_speakers=1,
        sample_rate=22050,
        espeak_voice=voice,
        phoneme_id_map=DEFAULT_PHONEME_ID_MAP,
        phoneme_type=PhonemeType(phoneme_type),
    )
    return PiperVoice(session=None, config=config, use_tashkeel=tashkeel)


def piper_ids(voice: PiperVoice, text: str) -> list[int]:
    ids = [voice.phonemes_to_ids(sentence) for sentence in voice.phonemize(text)]
    return list(itertools.chain.from_iterable(ids))


def prepared(tmp_path: Path, texts: list[str], *flags: str) -> list[dict]:
    """What `preprocess` writes for texts."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = [f"{number}|{text}\n" for number, text in enumerate(texts)]
    (corpus / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    where = ["--input-dir", str(corpus), "--output-dir", str(tmp_path / "out"), "--skip-audio"]
    more = ["--sample-rate", "22050", "--dataset-format", "ljspeech", "--max-workers", "1"]
    assert main([*where, *more, *flags]) == 0
    written = (tmp_path / "out" / "dataset.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in written.split("\n") if line]


def sentences(language: str) -> list[str]:
    lines = (SENTENCES / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


LANGUAGES = sorted(path.stem for path in SENTENCES.glob("*.txt"))


def test_there_are_languages_enough():
    assert len(LANGUAGES) > 20


@pytest.mark.parametrize("language", LANGUAGES)
def test_ids_of_pipers_test_sentences_are_pipers(tmp_path: Path, language: str):
    texts, voice = sentences(language), VOICES.get(language, language)
    entries = prepared(tmp_path, texts, "--language", voice)
    piper = runtime(voice)
    assert [entry["phoneme_ids"] for entry in entries] == [piper_ids(piper, t) for t in texts]
    assert [entry["text"] for entry in entries] == texts
    assert min(len(entry["phoneme_ids"]) for entry in entries) > 20
    assert {entry["audio_norm_path"] for entry in entries} == {None}


def test_arabic_with_its_vowels_added(tmp_path: Path):
    marks = dict.fromkeys(range(1611, 1619))
    texts = [text.translate(marks) for text in sentences("ar")]
    entries = prepared(tmp_path, texts, "--language", "ar", "--tashkeel")
    piper = runtime("ar", tashkeel=True)
    assert [entry["phoneme_ids"] for entry in entries] == [piper_ids(piper, t) for t in texts]
    assert all(len(entry["text"]) > len(text) for entry, text in zip(entries, texts))
    plain = runtime("ar")
    assert entries[0]["phoneme_ids"] != piper_ids(plain, texts[0])


def test_hebrew(tmp_path: Path):
    texts = ["שלום עולם", "אני לומד עברית", "שָׁלוֹם"]
    entries = prepared(tmp_path, texts, "--language", "he", "--phoneme-type", "hebrew")
    piper = runtime("he", "hebrew")
    assert [entry["phoneme_ids"] for entry in entries] == [piper_ids(piper, t) for t in texts]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["phoneme_type"] == "hebrew"


@pytest.mark.parametrize(
    ("phoneme_type", "voice", "text", "module"),
    [
        ("japanese", "ja", "日本語です。今日はいい天気ですね！", "pyopenjtalk"),
        ("thai", "th", "สวัสดีครับ วันนี้อากาศดี", "tltk"),
    ],
)
def test_phonemizers_of_single_languages(phoneme_type: str, voice: str, text: str, module: str):
    pytest.importorskip(module, reason=f"piper-tts's extra for {phoneme_type}")
    ids, missing = phonemes_to_ids(
        make_phonemizer(phoneme_type, voice)(text), default_phoneme_id_map(phoneme_type)
    )
    assert ids == piper_ids(runtime(voice, phoneme_type), text)
    assert len(ids) > 20
    assert not missing


# Pinyin needs a model that is downloaded: what is Piper's is stood in for, but for the ids.


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch):
    """Piper's module for Chinese, importable without what it needs for phonemizing."""
    for name in ("unicode_rbnf", "g2pW", "sentence_stream"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["unicode_rbnf"].RbnfEngine = object
    monkeypatch.setitem(sys.modules, "piper.g2pw_onnx", types.ModuleType("piper.g2pw_onnx"))
    sys.modules["piper.g2pw_onnx"].G2PWOnnxConverter = object
    monkeypatch.delitem(sys.modules, "piper.phonemize_chinese", raising=False)
    import piper.phonemize_chinese

    yield piper.phonemize_chinese
    monkeypatch.delitem(sys.modules, "piper.phonemize_chinese")


def test_pinyin_ids_are_pipers(chinese):
    sentence = [*("n", "i", "3", "h", "ao", "3", "，", "Ø", "ai", "4", "zh", "ong", "1", "。")]
    id_map = default_phoneme_id_map("pinyin")
    assert id_map == chinese.PHONEME_TO_ID
    ids, missing = phonemes_to_ids([sentence, ["é", "m", "a", "5"]], id_map, "pinyin")
    assert ids == [
        *chinese.phonemes_to_ids(sentence, id_map),
        *chinese.phonemes_to_ids(["m", "a", "5"], id_map),
    ]
    assert missing == {"é": 1}
    for symbol in id_map:  # a pad after each that ends a syllable or is a pause
        assert phonemes_to_ids([[symbol]], id_map, "pinyin")[0] == chinese.phonemes_to_ids(
            [symbol], id_map
        )


def test_a_corpus_in_pinyin(chinese, tmp_path: Path, monkeypatch):
    class Phonemizer:
        def __init__(self, model_dir: Path) -> None:
            assert model_dir == Path.cwd() / "local" / "g2pW"

        def phonemize(self, text: str) -> list[list[str]]:
            if text == "bad":
                raise KeyError("what is this")
            return [["n", "i", "3", "。"]]

    monkeypatch.setattr(chinese, "ChinesePhonemizer", Phonemizer)
    entries = prepared(tmp_path, ["你。", "bad"], "--language=cmn", "--phoneme-type=pinyin")
    assert [entry["phoneme_ids"] for entry in entries] == [[1, 10, 39, 66, 0, 69, 0, 2]]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["phoneme_id_map"] == chinese.PHONEME_TO_ID

    def unreachable(model_dir: Path):
        raise OSError("no route to host")

    monkeypatch.setattr(chinese, "ChinesePhonemizer", unreachable)
    with pytest.raises(UserError, match=r"could not be downloaded \(no route to host\): put it"):
        make_phonemizer("pinyin", "cmn")


@pytest.mark.parametrize(
    ("phoneme_type", "module", "extra"),
    [
        ("pinyin", "piper.phonemize_chinese", r"'piper-tts\[zh\]'"),
        ("japanese", "piper.phonemize_japanese", r"'piper-tts\[ja\]'"),
        ("thai", "piper.phonemize_thai", r"'piper-tts\[th\]'"),
        ("hebrew", "piper.phonemize_hebrew", r"'vits_jax\[preprocess\]' 'piper-tts'"),
    ],
)
def test_what_is_not_installed_is_named(monkeypatch, phoneme_type: str, module: str, extra: str):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"'{phoneme_type}' needs .*: pip install .*{extra}"):
        make_phonemizer(phoneme_type, "xx")


def test_a_text_that_cannot_be_phonemized_is_the_texts_fault(monkeypatch):
    from piper import phonemize_hebrew, tashkeel

    def fail(self, text):
        raise ValueError("too many\nlines")

    monkeypatch.setattr(phonemize_hebrew.HebrewPhonemizer, "phonemize", fail)
    with pytest.raises(CannotPhonemize, match="^too many$"):
        make_phonemizer("hebrew", "he")("x")
    with pytest.raises(CannotPhonemize, match="12000"):
        make_diacritizer()("ا" * 12001)
    assert tashkeel.CHAR_LIMIT == 12000


# Flags


def test_casing(tmp_path: Path):
    texts = ["AbC Straße"]
    for casing, expected in {
        "ignore": "AbC Straße",
        "lower": "abc straße",
        "upper": "ABC STRASSE",
        "casefold": "abc strasse",
    }.items():
        directory = tmp_path / casing
        directory.mkdir()
        flags = ["--language=de", "--phoneme-type=text", f"--text-casing={casing}"]
        (entry,) = prepared(directory, texts, *flags)
        assert "".join(entry["phonemes"]) == expected
        assert entry["text"] == texts[0]


def test_a_symbol_map_of_ones_own(tmp_path: Path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"_": 0, "^": [1], "$": 2, "a": [7], "b": [300, 9]}))
    flags = ["--language=en-us", "--phoneme-type=text", f"--phonemes-path={path}"]
    (entry,) = prepared(tmp_path, ["abc"], *flags)
    assert entry["phoneme_ids"] == [1, 0, 7, 0, 300, 9, 0, 2]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["phoneme_id_map"]["a"] == [7]
    assert config["num_symbols"] == 301


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: "),
        ("[1]", "expected {symbol: id, …}"),
        ('{"_": 0, "^": 1}', r"no '\$' \(end\)"),
        ('{"_": 0, "^": 1, "$": 2, "a": "7"}', "'a' has '7', expected a whole number"),
        ('{"_": 0, "^": 1, "$": 2, "a": []}', "'a' has .*, expected a whole number"),
        ('{"_": 0, "^": 1, "$": 2, "a": -1}', "'a' has -1, expected a whole number"),
        ('{"_": 0, "^": 1, "$": 2, "a": true}', "'a' has True, expected a whole number"),
        ('{"_": 0, "^": 1, "$": 2, "a": 70000}', "'a' has 70000, expected a whole number"),
        ("[" * 100_000, "is not JSON: "),
    ],
)
def test_maps_that_are_something_else(tmp_path: Path, content: str, message: str):
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_phoneme_id_map(tmp_path / "map.json")


def test_symbols_there_is_room_for():
    assert num_symbols({"a": [3]}) == 256
    assert num_symbols({"a": [3], "b": [255, 256]}) == 257


def test_ready_made_ids(tmp_path: Path, caplog):
    caplog.set_level("INFO")
    texts = ["Hello.|1 0 20 0 2", "Out of range.|1 256 2", "No numbers.|1 x 2", "None.| ", "two"]
    flags = ["--language=en-us", "--dataset-type=phoneme_ids"]
    (entry,) = prepared(tmp_path, texts, *flags)
    assert (entry["text"], entry["phonemes"]) == ("Hello.", None)
    assert entry["phoneme_ids"] == [1, 0, 20, 0, 2]
    said = "\n".join(caplog.messages)
    for row, reason in {
        2: "bad phoneme ids: 256 is not from 0 to 255",
        3: "bad phoneme ids: 'x', expected whole numbers and spaces",
        4: "bad phoneme ids: the last column is empty",
        5: "two columns: expected id\\|text\\|phoneme ids or id\\|speaker\\|text\\|phoneme ids",
    }.items():
        assert re.search(rf"metadata\.csv:{row}: .*{reason}", said), reason
    assert "without audio: to train, run it again without --skip-audio" in said
