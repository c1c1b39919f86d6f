"""Pieces of recordings, cut at random, with what their texts let expect of each frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vits_jax.config import Config
from vits_jax.data.manifest import Dataset

NUMBER = 8
FRAMES = 96
MARGIN = 24
"""Frames at each end that are heard, and not said."""


class Piece(NamedTuple):
    """B of them, of F frames; P phonemes of their whole texts."""

    audio: jax.Array  # int16 [B, F * hop], zeros after `frames`
    frames: jax.Array  # int32 [B], of speech
    m_p: jax.Array  # [B, F, C], the prior of each frame: its mean ...
    logs_p: jax.Array  # [B, F, C], ... and log-scale
    phoneme_ids: jax.Array  # int32 [B, P]
    phoneme_lengths: jax.Array  # int32 [B]
    speaker_ids: jax.Array  # int32 [B]


class Pieces:
    """Of a dataset.

    Args:
        config: of the run.
        dataset: of recordings and texts.
        timed: ``{row: int32 [frames]}``, of each frame of a recording its phoneme (`timings`).
        priors: ``{row: (m_p [phonemes, C], logs_p [phonemes, C])}``, of each phoneme.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        timed: Mapping[int, np.ndarray],
        priors: Mapping[int, tuple[np.ndarray, np.ndarray]],
    ):
        self._seed, self._hop = config.run.seed, config.audio.hop_length
        self._dataset, self._timed, self._priors = dataset, timed, priors
        self._rows = list(timed)
        self._phonemes = max(len(dataset.phoneme_ids(row)) for row in timed)

    def __call__(self, step: int) -> Piece:
        """Those of a step: longer recordings give more. Their ends are heard, and not said."""
        random, hop, dataset = np.random.default_rng((self._seed, step)), self._hop, self._dataset
        lengths = np.asarray([len(self._timed[row]) for row in self._rows])
        rows = random.choice(self._rows, NUMBER, p=lengths / lengths.sum())
        ids = np.zeros((NUMBER, self._phonemes), np.int32)
        audio = np.zeros((NUMBER, FRAMES * hop), np.int16)
        channels = next(iter(self._priors.values()))[0].shape[1]
        m_p, logs_p = (np.zeros((NUMBER, FRAMES, channels), np.float32) for _ in range(2))
        frames = np.zeros(NUMBER, np.int32)
        for i, row in enumerate(rows):
            timed, text = self._timed[row], dataset.phoneme_ids(row)
            start = int(random.integers(max(1, len(timed) - FRAMES + 1)))
            frames[i] = min(FRAMES, len(timed) - start)
            end = start + frames[i]
            ids[i, : len(text)] = text
            audio[i, : frames[i] * hop] = dataset.audio(row)[start * hop : end * hop]
            for of_piece, of_text in zip((m_p, logs_p), self._priors[int(row)], strict=True):
                of_piece[i, : frames[i]] = of_text[timed[start:end]]
        arrays = (
            audio,
            frames,
            m_p,
            logs_p,
            ids,
            dataset.id_lengths[rows].astype(np.int32),
            dataset.speaker_ids[rows].astype(np.int32),
        )
        return Piece(*map(jnp.asarray, arrays))
