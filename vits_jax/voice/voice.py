"""`vits_jax.load(checkpoint)`: a trained voice in Python."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from vits_jax import device_memory
from vits_jax.checkpoints.source import Source, open_checkpoint
from vits_jax.config import Config
from vits_jax.data.speakers import speaker_id
from vits_jax.errors import RunFailed, UserError
from vits_jax.model.parameters import Parameters
from vits_jax.voice import texts
from vits_jax.voice.conversion import convert
from vits_jax.voice.speech import (
    MOST_FRAMES,
    Sentence,
    Settings,
    Spoken,
    Stages,
    joined,
    make_stages,
    speak,
)

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Voice:
    """A generator with its parameters, and what its dataset said of phonemes and speakers.

    `dataset` is the ``config.json`` of the dataset that the voice was trained on; `averaged` says
    whether the parameters are the checkpoint's averages.
    """

    config: Config
    dataset: Mapping[str, Any]
    parameters: Parameters
    stages: Stages
    averaged: bool = False

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
        speaker_id: str | int | None = None,
        noise_scale: float = 0.667,
        length_scale: float = 1.0,
        noise_w: float = 0.8,
        seed: int = 0,
    ) -> np.ndarray:
        """Speak.

        Args:
            phoneme_ids: as in ``dataset.jsonl``, pads, start and end included.
            speaker_id: who speaks, by id or name (default: the first speaker).
            noise_scale: how much the sound varies.
            length_scale: above 1 is slower.
            noise_w: how much the durations vary.
            seed: of that variation; the same seed gives the same audio.

        Returns:
            float32 samples ``[frames * hop]`` in [-1, 1].

        Raises:
            UserError: ids, speaker or scales that this voice does not have.
        """
        sentence = self.sentence(phoneme_ids, speaker_id)
        settings = Settings(noise_scale, length_scale, noise_w, seed)
        return self.speak([sentence], settings)[0].audio

    def say(
        self,
        text: str,
        speaker: str | int | None = None,
        settings: Settings | None = None,
        sentence_silence: float = 0.0,
    ) -> np.ndarray:
        """Speak a text, sentence by sentence.

        Args:
            text: in the language of the voice; symbols that it does not know are left out.
            speaker: name or id (default: the first speaker).
            settings: scales and seed (default: those of `synthesize`).
            sentence_silence: seconds between the sentences.

        Returns:
            float32 samples in [-1, 1].

        Raises:
            UserError: nothing in the text can be said, or as of `phonemize` and `speak`.
        """
        sentences, _ = self.phonemize(text)
        spoken = self.speak([self.sentence(ids, speaker) for ids in sentences], settings)
        return joined([each.audio for each in spoken], self.silence(sentence_silence))

    def silence(self, seconds: float) -> int:
        """So many samples; `UserError` where it is no length of time."""
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise UserError(f"sentence silence {seconds}: expected seconds, at least 0")
        return round(seconds * self.sample_rate)

    def speak(
        self,
        sentences: Sequence[Sentence],
        settings: Settings | None = None,
        batch_size: int | None = None,
    ) -> list[Spoken]:
        """Speak several sentences, and tell the durations of their phonemes.

        What would last more than `MOST_FRAMES` is cut off there, with a warning.

        Args:
            sentences: from `sentence`.
            settings: scales and seed (default: those of `synthesize`).
            batch_size: how many of similar length at once (default: all).

        Raises:
            UserError: settings that cannot be.
            RunFailed: what was computed is no speech, or memory ran out.
        """
        settings = settings or Settings()
        self.check_settings(settings)
        with device_memory.explained(
            lambda: ("speaking", None), "make more and shorter sentences, or lower the batch size"
        ):
            spoken = speak(
                *(self.stages, self.parameters, self.config, sentences, settings),
                batch_size=batch_size,
            )
        for sentence, each in zip(sentences, spoken):
            self._check_spoken(sentence, each)
        return spoken

    def _check_spoken(self, sentence: Sentence, spoken: Spoken) -> None:
        """Say what was cut off, and refuse what is no sound."""
        ids, hop = sentence.phoneme_ids, self.config.audio.hop_length
        symbols = {i[0]: s for s, i in (self.dataset.get("phoneme_id_map") or {}).items() if i}
        begins = "".join(symbols.get(number, f" {number} ") for number in ids[:60].tolist())
        what = f"the sentence of {len(ids)} phoneme ids that begins with {begins!r}"
        _check_sound(spoken.audio, what)
        seconds = int(np.sum(spoken.durations, dtype=np.int64)) * hop / self.sample_rate
        kept = len(spoken.audio) / self.sample_rate
        if seconds > kept:
            _LOGGER.warning(
                "cut off after %.1f s: %s would last %.1f s; make sentences of it, or lower the "
                "length scale",
                *(kept, what, seconds),
            )

    def convert(
        self, audio: np.ndarray, source: str | int, target: str | int, seed: int = 0
    ) -> np.ndarray:
        """Say what one speaker said with another's voice.

        Args:
            audio: float samples ``[n]`` in [-1, 1] at `sample_rate`.
            source: the speaker of the recording, by name or id.
            target: whose voice it shall have, by name or id.
            seed: of the small variation there is.

        Returns:
            float32 ``[n // hop * hop]`` in [-1, 1].

        Raises:
            UserError: a single-speaker voice, an unknown speaker, or audio that is too
                short or too long.
            RunFailed: what was computed is no speech, or memory ran out.
        """
        if self.config.model.num_speakers == 1:
            raise UserError("this voice has one speaker: conversion needs a voice with several")
        self.check_settings(Settings(seed=seed))
        speakers = self.speaker(source), self.speaker(target)
        if not np.any(self.parameters["enc_q.pre.weight"]):
            raise UserError(
                "this voice was imported from one that speaks only: it has no posterior encoder, "
                "which hears what is to be converted"
            )
        with device_memory.explained(lambda: ("the conversion", None), "cut the recording up"):
            converted = convert(self.stages, self.parameters, self.config, audio, *speakers, seed)
        _check_sound(converted, "the recording")
        return converted

    def phonemize(self, text: str) -> tuple[list[list[int]], dict[str, int]]:
        """Phoneme ids of a text's sentences, and the symbols that this voice does not know.

        Sentences of which no symbol is known are left out. The symbols are counted.

        Raises:
            UserError: nothing is left, the voice has no phoneme map, or the ``preprocess``
                extra is not installed.
        """
        return texts.phonemize(self.dataset, text)

    @property
    def phoneme_id_map(self) -> dict[str, list[int]]:
        """Ids of each symbol.

        Raises:
            UserError: the checkpoint came without one.
        """
        return texts.phoneme_id_map(self.dataset)

    def speaker(self, name: str | int | None) -> int:
        """Id of a speaker, given by name or id; None is the first.

        Raises:
            UserError: there is no such speaker.
        """
        return speaker_id(name, self.speakers, self.config.model.num_speakers)

    def sentence(self, phoneme_ids: Sequence[int], speaker: str | int | None = None) -> Sentence:
        """What to speak, checked: ids, and a speaker by name or id.

        Raises:
            UserError: ids or a speaker that this voice does not have.
        """
        return Sentence(self._check_ids(phoneme_ids), self.speaker(speaker))

    @staticmethod
    def check_settings(settings: Settings) -> None:
        """Raise `UserError` for scales or a seed that cannot be."""
        if not (settings.length_scale > 0 and math.isfinite(settings.length_scale)):
            raise UserError(f"length_scale {settings.length_scale}: expected a number above 0")
        for name in ("noise_scale", "noise_w"):
            scale = getattr(settings, name)
            if not (scale >= 0 and math.isfinite(scale)):
                raise UserError(f"{name} {scale}: expected a number of at least 0")
        if not 0 <= settings.seed < 2**32:
            raise UserError(f"seed {settings.seed}: expected a whole number from 0 to {2**32 - 1}")

    def _check_ids(self, phoneme_ids: Sequence[int]) -> np.ndarray:
        most = self.config.model.num_symbols
        try:
            ids = np.asarray(phoneme_ids)
        except ValueError:  # lists of several lengths
            ids = np.empty(0)
        if ids.ndim != 1 or not len(ids) or not np.issubdtype(ids.dtype, np.integer):
            raise UserError("phoneme_ids: expected a list of whole numbers that is not empty")
        if len(ids) > MOST_FRAMES:  # each lasts a frame at least
            raise UserError(
                f"{len(ids)} phoneme ids in one sentence: expected at most {MOST_FRAMES}: "
                "split it into sentences"
            )
        if ids.min() < 0 or ids.max() >= most:
            bad = ids[(ids < 0) | (ids >= most)][0]
            raise UserError(f"phoneme id {bad}: expected ids from 0 to {most - 1}")
        return ids


def load(
    checkpoint: str | Path,
    voice_config: str | Path | None = None,
    *,
    ema: bool = True,
    best: bool = False,
) -> Voice:
    """A voice from a run directory (its latest step), one step's directory, or a ``.ckpt``.

    Args:
        checkpoint: its path.
        voice_config: the ``config.json`` of the dataset that a ``.ckpt`` was trained on: it
            has the symbols and speakers, which a ``.ckpt`` lacks.
        ema: speak with the averages of the weights, where it has some.
        best: of a run directory the best step that is kept, not its latest.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    return of_source(open_checkpoint(checkpoint, voice_config, best=best), ema=ema)


def of_source(source: Source, *, ema: bool = True) -> Voice:
    """The voice of an opened checkpoint; says which weights it has, if there are two kinds.

    Raises:
        UserError: it lacks weights, or they are not finite.
    """
    averaged = ema and source.averaged
    if source.averaged:
        which = "averaged weights (--no-ema: plain ones)" if averaged else "plain weights"
        _LOGGER.info("%s: %s", source.where, which)
    elif not ema:
        _LOGGER.info("%s: it has no averages, its weights are plain ones anyway", source.where)
    metadata = source.metadata
    device = SingleDeviceSharding(jax.devices()[0])
    parameters = source.generator(device, averages=averaged)
    broken = [name for name, value in parameters.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{source.where}: the voice's weights are not finite ({len(broken)} of "
            f"{len(parameters)} tensors, such as {broken[0]}): use a checkpoint from before it "
            "was broken"
        )
    stages = make_stages(metadata.config)
    return Voice(metadata.config, metadata.dataset, parameters, stages, averaged)


def _check_sound(audio: np.ndarray, what: str) -> None:
    """Raise `RunFailed` unless all of ``audio [samples]`` are numbers."""
    if not np.isfinite(audio).all():
        raise RunFailed(
            f"{what} came out as numbers that are not finite: the voice's weights are too large "
            "for float32: use an earlier checkpoint"
        )
