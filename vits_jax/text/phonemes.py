"""Phonemes of a text, and the ids that the text encoder reads.

The phonemizer is the runtime's own (``piper-tts``), so that a voice hears in training
what it will be asked to say. It is imported when it is first needed: everything else in
the package works without it.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from vits_jax.errors import UserError

PAD, START, END = "_", "^", "$"
PHONEME_TYPES = ("espeak", "text", "pinyin", "hebrew", "japanese", "thai")
TEXT_CASINGS = ("ignore", "lower", "upper", "casefold")
NUM_SYMBOLS = 256  # rows of the embedding; Piper keeps room for symbols to come

# Pinyin has a pad after each syllable (its tone) and each pause, not after every symbol.
_PINYIN_ENDS = frozenset("12345。？！.?!—…、，：；,:; ")

Phonemize = Callable[[str], list[list[str]]]
"""Text to phonemes, one list of symbols per sentence."""

PhonemeIdMap = dict[str, list[int]]


class CannotPhonemize(Exception):
    """A text that a phonemizer cannot take; the message says why."""


def make_phonemizer(phoneme_type: str, voice: str) -> Phonemize:
    """The function from a text to its sentences' phonemes.

    It raises `CannotPhonemize` for a text that it cannot take.

    Args:
        phoneme_type: ``espeak`` (espeak-ng's phonemes, decomposed into code points), ``text``
            (the code points of the text itself, NFD; always one sentence), or ``pinyin``,
            ``hebrew``, ``japanese``, ``thai`` (piper-tts's own, for these languages).
        voice: espeak-ng's voice, such as ``en-us``; the other types do not look at it.

    Raises:
        UserError: unknown type or voice, or what it needs is not installed.
    """
    if phoneme_type == "text":
        return lambda text: [list(unicodedata.normalize("NFD", text))]
    if phoneme_type not in PHONEME_TYPES:
        choices = ", ".join(PHONEME_TYPES)
        raise UserError(f"phoneme type {phoneme_type!r} is not known: use one of {choices}")
    if phoneme_type == "espeak":
        return _guarded(_espeak(voice))
    return _guarded(_of_piper(phoneme_type))


def _espeak(voice: str) -> Phonemize:
    try:
        from piper.phonemize_espeak import EspeakPhonemizer
    except ImportError as error:
        raise UserError(_needs("phoneme type 'espeak'")) from error
    phonemizer = EspeakPhonemizer()
    try:
        phonemizer.phonemize(voice, "a")
    except RuntimeError as error:  # what its C extension raises for a voice it cannot set
        raise UserError(
            f"language {voice!r} is no voice of espeak-ng: use one such as en-us, de or fr"
        ) from error
    return lambda text: phonemizer.phonemize(voice, text)


def _of_piper(phoneme_type: str) -> Phonemize:
    """The phonemizers that piper-tts has for single languages."""
    try:
        if phoneme_type == "hebrew":
            from piper.phonemize_hebrew import HebrewPhonemizer

            return HebrewPhonemizer().phonemize
        if phoneme_type == "japanese":
            from piper.phonemize_japanese import JapanesePhonemizer

            return JapanesePhonemizer().phonemize
        if phoneme_type == "thai":
            from piper.phonemize_thai import ThaiPhonemizer

            return ThaiPhonemizer().phonemize
        from piper.phonemize_chinese import ChinesePhonemizer
    except ImportError as error:
        extra = {"pinyin": "[zh]", "japanese": "[ja]", "thai": "[th]"}.get(phoneme_type, "")
        raise UserError(
            f"phoneme type {phoneme_type!r} needs {error.name or 'more'}: "
            f"pip install 'vits_jax[preprocess]' 'piper-tts{extra}'"
        ) from error
    directory = Path.cwd() / "local" / "g2pW"  # where Piper keeps it
    try:
        return ChinesePhonemizer(model_dir=directory).phonemize
    except OSError as error:  # it downloads a model when there is none
        raise UserError(
            f"phoneme type 'pinyin': the g2pW model is not in {directory} and could not be "
            f"downloaded ({error}): put it there"
        ) from error


def _guarded(phonemize: Phonemize) -> Phonemize:
    """The same, but what the text is to blame for is a `CannotPhonemize`."""

    def guarded(text: str) -> list[list[str]]:
        try:
            return phonemize(text)
        except (RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
            raise CannotPhonemize(_first_line(error)) from error

    return guarded


def make_diacritizer() -> Callable[[str], str]:
    """Arabic text to the same with its vowels, by libtashkeel.

    It raises `CannotPhonemize` for a text that it cannot take.

    Raises:
        UserError: piper-tts is not installed.
    """
    try:
        from piper.tashkeel import TashkeelDiacritizer, TashkeelError
    except ImportError as error:
        raise UserError(_needs("--tashkeel")) from error
    diacritizer = TashkeelDiacritizer()

    def diacritize(text: str) -> str:
        try:
            return diacritizer(text)
        except (TashkeelError, ValueError, LookupError) as error:
            raise CannotPhonemize(_first_line(error)) from error

    return diacritize


def cased(text: str, casing: str) -> str:
    """`text` in one of `TEXT_CASINGS`."""
    return text if casing == "ignore" else str(getattr(text, casing)())


def default_phoneme_id_map(phoneme_type: str = "espeak") -> PhonemeIdMap:
    """Piper's symbols and their ids; those of ``pinyin`` are its own.

    Piper's table ends with five diphthongs of two code points each. No phonemizer here
    makes them (phonemes are code points), and Piper's C++ runtimes refuse a voice whose
    map holds them, so they are left out.

    Raises:
        UserError: piper-tts is not installed.
    """
    try:
        if phoneme_type == "pinyin":
            from piper.phonemize_chinese import PHONEME_TO_ID

            return {symbol: list(ids) for symbol, ids in PHONEME_TO_ID.items()}
        from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
    except ImportError as error:
        raise UserError(
            _needs("Piper's phoneme table")
            + "; or --phonemes-path names another: your own, or the .onnx.json of a voice"
        ) from error
    return {symbol: list(ids) for symbol, ids in DEFAULT_PHONEME_ID_MAP.items() if len(symbol) == 1}


def read_phoneme_id_map(path: Path) -> PhonemeIdMap:
    """A symbol map of the user's own: JSON, symbol → id or list of ids; or a voice's JSON, which
    has one.

    Raises:
        UserError: no such file, or it is something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--phonemes-path {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--phonemes-path {path} is not JSON: {_first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"--phonemes-path {path}: expected {{symbol: id, …}}")
    if isinstance(value.get("phoneme_id_map"), dict):
        value = value["phoneme_id_map"]
    id_map = {s: ids if isinstance(ids, list) else [ids] for s, ids in value.items()}
    for symbol, ids in id_map.items():
        if not ids or not all(type(i) is int and 0 <= i < 1 << 16 for i in ids):
            raise UserError(
                f"--phonemes-path {path}: {symbol!r} has {value[symbol]!r}, "
                "expected a whole number from 0, or a list of them"
            )
    for symbol, meaning in ((PAD, "pad"), (START, "start"), (END, "end")):
        if symbol not in id_map:
            raise UserError(f"--phonemes-path {path}: no {symbol!r} ({meaning})")
    return id_map


def num_symbols(id_map: Mapping[str, Sequence[int]]) -> int:
    """Rows of the embedding for a symbol map: Piper's number, or more where it is larger."""
    return max(NUM_SYMBOLS, 1 + max(number for ids in id_map.values() for number in ids))


def phonemes_to_ids(
    sentences: Iterable[Sequence[str]],
    phoneme_id_map: Mapping[str, Sequence[int]],
    phoneme_type: str = "espeak",
) -> tuple[list[int], Counter[str]]:
    """Ids of an utterance: each sentence as start, pad, then every phoneme and a pad, end.

    Args:
        sentences: phonemes of each sentence; sentences follow one another.
        phoneme_id_map: ids of each symbol, and of ``_`` (pad), ``^`` (start), ``$`` (end).
        phoneme_type: ``pinyin`` has no pad after the start, and one after syllables and
            pauses alone.

    Returns:
        The ids, and how often each symbol was left out because the map lacks it.
    """
    pad = phoneme_id_map[PAD]
    pinyin = phoneme_type == "pinyin"
    ids: list[int] = []
    missing: Counter[str] = Counter()
    for sentence in sentences:
        ids += phoneme_id_map[START]
        if not pinyin:
            ids += pad
        for phoneme in sentence:
            if phoneme in phoneme_id_map:
                ids += phoneme_id_map[phoneme]
                if not pinyin or phoneme in _PINYIN_ENDS:
                    ids += pad
            else:
                missing[phoneme] += 1
        ids += phoneme_id_map[END]
    return ids, missing


def _needs(what: str) -> str:
    return f"{what} needs piper-tts: pip install 'vits_jax[preprocess]'"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
