"""A text to the phoneme ids of its sentences, as a voice's JSON says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vits_jax.errors import UserError
from vits_jax.text import CannotPhonemize, make_phonemizer, phonemes_to_ids


def phonemize(dataset: Mapping[str, Any], text: str) -> tuple[list[list[int]], dict[str, int]]:
    """Phoneme ids of a text's sentences, and the symbols that this voice does not know.

    Sentences of which no symbol is known are left out. The symbols are counted.

    Args:
        dataset: the voice's JSON, or the ``config.json`` of the dataset it was trained on.
        text: what to say.

    Raises:
        UserError: nothing is left, there is no phoneme map, or the ``preprocess`` extra is not
            installed.
    """
    phoneme_map = phoneme_id_map(dataset)
    phoneme_type = str(dataset.get("phoneme_type") or "espeak")
    espeak = (dataset.get("espeak") or {}).get("voice") or ""
    sentences, missing = [], Counter[str]()
    try:
        spoken = make_phonemizer(phoneme_type, espeak)(text)
    except CannotPhonemize as error:
        raise UserError(f"{text!r}: {error}") from error
    for phonemes in spoken:
        ids, unknown = phonemes_to_ids([phonemes], phoneme_map, phoneme_type)
        missing += unknown
        if len(phonemes) > unknown.total():
            sentences.append(ids)
    if not sentences:
        raise UserError(f"{text!r}: nothing in it that this voice can say")
    return sentences, dict(missing)


def phoneme_id_map(dataset: Mapping[str, Any]) -> dict[str, list[int]]:
    """Ids of each symbol.

    Raises:
        UserError: there are none.
    """
    found = dataset.get("phoneme_id_map")
    if not found:
        raise UserError(
            "this checkpoint has no phoneme map (phoneme_id_map in its dataset's config.json): "
            "name it with --voice-config, or speak phoneme_ids"
        )
    return dict(found)
