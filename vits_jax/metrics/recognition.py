"""How well a recogniser understands it: pocketsphinx, which ships American English."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vits_jax.metrics.clips import Clip, resampled
from vits_jax.metrics.metric import needed
from vits_jax.metrics.words import edits, normalised

RATE = 16000


def word_errors(clips: Sequence[Clip]) -> np.ndarray:
    """Edits per word of the text, per cent: float64 ``[clips]``; more than 100 can be."""
    return _errors(clips, str.split)


def character_errors(clips: Sequence[Clip]) -> np.ndarray:
    """Edits per character of the text, spaces included, per cent: float64 ``[clips]``."""
    return _errors(clips, list)


def _errors(clips: Sequence[Clip], split: Callable[[str], list[str]]) -> np.ndarray:
    rates = np.full(len(clips), np.nan)
    for i, clip in enumerate(clips):
        said = split(normalised(clip.text or ""))
        if said:
            rates[i] = 100 * edits(said, split(heard(clip))) / len(said)
    return rates


@functools.lru_cache(maxsize=256)
def heard(clip: Clip) -> str:
    """What the recogniser hears, in its words; empty where it hears none."""
    samples = np.clip(resampled(clip, RATE) * 32767, -32768, 32767).astype("<i2")
    decoder = _decoder()
    if not samples.any():
        return ""  # it would hear a short word all the same
    # It adapts to what it hears: without this a clip would be heard as the ones before it were.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else normalised(hypothesis.hypstr)


@functools.lru_cache(maxsize=1)
def _decoder() -> Any:
    return needed("pocketsphinx").Decoder(samprate=RATE, loglevel="FATAL")
