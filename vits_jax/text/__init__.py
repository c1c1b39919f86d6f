"""Text to phonemes to ids, as Piper's runtimes do it."""

from vits_jax.text.phonemes import (
    PHONEME_TYPES,
    TEXT_CASINGS,
    CannotPhonemize,
    PhonemeIdMap,
    Phonemize,
    cased,
    default_phoneme_id_map,
    make_diacritizer,
    make_phonemizer,
    num_symbols,
    phonemes_to_ids,
    read_phoneme_id_map,
)

__all__ = [
    "PHONEME_TYPES",
    "TEXT_CASINGS",
    "CannotPhonemize",
    "PhonemeIdMap",
    "Phonemize",
    "cased",
    "default_phoneme_id_map",
    "make_diacritizer",
    "make_phonemizer",
    "num_symbols",
    "phonemes_to_ids",
    "read_phoneme_id_map",
]
