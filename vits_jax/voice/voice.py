"""`vits_jax.load(checkpoint)`: a trained voice in Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.parameters import Parameters
from vits_jax.text import make_phonemizer, phonemes_to_ids
from vits_jax.voice.speech import Stages, make_stages, speak


@dataclass(frozen=True)
class Voice:
    """A generator with its parameters, and what its dataset said of phonemes and speakers.

    `dataset` is the ``config.json`` of the dataset that the voice was trained on.
    """

    config: Config
    dataset: Mapping[str, Any]
    parameters: Parameters
    stages: Stages

    @property
    def sample_rate(self) -> int:
        """Samples per second of what `synthesize` returns."""
        return self.config.audio.sample_rate

    @property
    def speakers(self) -> dict[str, int]:
        """Id of each speaker by name."""
        return dict(self.dataset.get("speaker_id_map") or {})

    def synthesize(
        self,
        phoneme_ids: Sequence[int],
        speaker_id: int | None = None,
        noise_scale: float = 0.667,
        length_scale: float = 1.0,
        noise_w: float = 0.8,
        seed: int = 0,
    ) -> np.ndarray:
        """Speak.

        Args:
            phoneme_ids: as in ``dataset.jsonl``, pads, start and end included.
            speaker_id: who speaks (default: the first speaker).
            noise_scale: how much the sound varies.
            length_scale: above 1 is slower.
            noise_w: how much the durations vary.
            seed: of that variation; the same seed gives the same audio.

        Returns:
            float32 samples ``[frames * hop]`` in [-1, 1].

        Raises:
            UserError: ids, speaker or scales that this voice does not have.
        """
        ids, speaker = self.check(phoneme_ids, speaker_id)
        self.check_settings(noise_scale, length_scale, noise_w, seed)
        return speak(
            self.stages,
            self.parameters,
            self.config,
            ids,
            speaker_id=speaker,
            noise_scale=noise_scale,
            length_scale=length_scale,
            noise_w=noise_w,
            seed=seed,
        )

    def phonemize(self, text: str) -> tuple[list[int], dict[str, int]]:
        """Phoneme ids of a text, and the symbols that this voice does not know, with counts.

        Raises:
            UserError: the ``preprocess`` extra is not installed.
        """
        phoneme_type = str(self.dataset.get("phoneme_type") or "espeak")
        espeak = (self.dataset.get("espeak") or {}).get("voice") or ""
        sentences = make_phonemizer(phoneme_type, espeak)(text)
        ids, missing = phonemes_to_ids(sentences, self.dataset["phoneme_id_map"])
        return ids, dict(missing)

    def check(self, phoneme_ids: Sequence[int], speaker_id: int | None) -> tuple[np.ndarray, int]:
        """Ids ``[ids]`` and speaker to synthesize with, or `UserError`."""
        return self._check_ids(phoneme_ids), self._check_speaker(speaker_id)

    @staticmethod
    def check_settings(noise_scale: float, length_scale: float, noise_w: float, seed: int) -> None:
        """Raise `UserError` for scales or a seed that cannot be."""
        if not (length_scale > 0 and math.isfinite(length_scale)):
            raise UserError(f"length_scale {length_scale}: expected a number above 0")
        for name, scale in (("noise_scale", noise_scale), ("noise_w", noise_w)):
            if not (scale >= 0 and math.isfinite(scale)):
                raise UserError(f"{name} {scale}: expected a number of at least 0")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed {seed}: expected a whole number from 0 to {2**32 - 1}")

    def _check_ids(self, phoneme_ids: Sequence[int]) -> np.ndarray:
        most = self.config.model.num_symbols
        try:
            ids = np.asarray(phoneme_ids)
        except ValueError:  # lists of several lengths
            ids = np.empty(0)
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
            raise UserError("phoneme_ids: expected a list of whole numbers that is not empty")
        if ids.min() < 0 or ids.max() >= most:
            bad = ids[(ids < 0) | (ids >= most)][0]
            raise UserError(f"phoneme id {bad}: expected ids from 0 to {most - 1}")
        return ids

    def _check_speaker(self, speaker_id: int | None) -> int:
        count = self.config.model.num_speakers
        if speaker_id is None:
            return 0
        if isinstance(speaker_id, bool) or not isinstance(speaker_id, (int, np.integer)):
            raise UserError(f"speaker id {speaker_id!r}: expected a whole number")
        if not 0 <= speaker_id < count:
            raise UserError(f"speaker id {speaker_id}: expected one from 0 to {count - 1}")
        return int(speaker_id)


def load(checkpoint: str | Path, voice_config: str | Path | None = None) -> Voice:
    """A voice from a run directory (its latest step), one step's directory, or a ``.ckpt``.

    Args:
        checkpoint: its path.
        voice_config: the ``config.json`` of the dataset that a ``.ckpt`` was trained on: it
            has the symbols and speakers, which a ``.ckpt`` lacks.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    source = open_checkpoint(checkpoint, voice_config)
    metadata = source.metadata
    parameters = source.generator(SingleDeviceSharding(jax.devices()[0]))
    return Voice(metadata.config, metadata.dataset, parameters, make_stages(metadata.config))
