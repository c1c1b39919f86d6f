"""Phonemes of a text, and the ids that the text encoder reads.

The phonemizer is the runtime's own (``piper-tts``), so that a voice hears in training
what it will be asked to say. It is imported when it is first needed: everything else in
the package works without it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from vits_jax.errors import UserError

PHONEME_TYPES = ("espeak", "text")
PAD, START, END = "_", "^", "$"

Phonemize = Callable[[str], list[list[str]]]
"""Text to phonemes, one list of symbols per sentence."""

_EXTRA = "needs piper-tts: pip install 'vits_jax[preprocess]'"


def make_phonemizer(phoneme_type: str, voice: str) -> Phonemize:
    """The function from a text to its sentences' phonemes.

    Args:
      phoneme_type: ``espeak`` (espeak-ng's phonemes, decomposed into code points) or
        ``text`` (the code points of the text itself, NFD; always one sentence).
      voice: espeak-ng's voice, such as ``en-us``; ``text`` does not look at it.

    Raises:
      UserError: unknown type or voice, or piper-tts is not installed.
    """
    if phoneme_type == "text":
        return lambda text: [list(unicodedata.normalize("NFD", text))]
    if phoneme_type != "espeak":
        choices = ", ".join(PHONEME_TYPES)
        raise UserError(f"phoneme type {phoneme_type!r} is not known: use one of {choices}")
    try:
        from piper.phonemize_espeak import EspeakPhonemizer
    except ImportError as error:
        raise UserError(f"phoneme type 'espeak' {_EXTRA}") from error
    phonemizer = EspeakPhonemizer()
    try:
        phonemizer.phonemize(voice, "a")
    except RuntimeError as error:  # what its C extension raises for a voice it cannot set
        raise UserError(
            f"language {voice!r} is no voice of espeak-ng: use one such as en-us, de or fr"
        ) from error
    return lambda text: phonemizer.phonemize(voice, text)


def default_phoneme_id_map() -> dict[str, list[int]]:
    """Piper's symbols and their ids, without its multi-character ones.

    Piper's table ends with five diphthongs of two code points each. No phonemizer here
    makes them (phonemes are code points), and Piper's C++ runtimes refuse a voice whose
    map holds them.

    Raises:
      UserError: piper-tts is not installed.
    """
    try:
        from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
    except ImportError as error:
        raise UserError(f"Piper's phoneme table {_EXTRA}") from error
    return {symbol: list(ids) for symbol, ids in DEFAULT_PHONEME_ID_MAP.items() if len(symbol) == 1}


def phonemes_to_ids(
    sentences: Iterable[Sequence[str]], phoneme_id_map: Mapping[str, Sequence[int]]
) -> tuple[list[int], Counter[str]]:
    """Ids of an utterance: each sentence as start, pad, then every phoneme and a pad, end.

    Args:
      sentences: phonemes of each sentence; sentences follow one another.
      phoneme_id_map: ids of each symbol, and of ``_`` (pad), ``^`` (start), ``$`` (end).

    Returns:
      The ids, and how often each symbol was left out because the map lacks it.
    """
    pad = phoneme_id_map[PAD]
    ids: list[int] = []
    missing: Counter[str] = Counter()
    for sentence in sentences:
        ids += [*phoneme_id_map[START], *pad]
        for phoneme in sentence:
            if phoneme in phoneme_id_map:
                ids += [*phoneme_id_map[phoneme], *pad]
            else:
                missing[phoneme] += 1
        ids += phoneme_id_map[END]
    return ids, missing
