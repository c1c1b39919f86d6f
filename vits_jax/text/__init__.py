"""Text to phonemes to ids, as Piper's runtimes do it."""

from vits_jax.text.phonemes import (
    PHONEME_TYPES,
    Phonemize,
    default_phoneme_id_map,
    make_phonemizer,
    phonemes_to_ids,
)

__all__ = [
    "PHONEME_TYPES",
    "Phonemize",
    "default_phoneme_id_map",
    "make_phonemizer",
    "phonemes_to_ids",
]
