"""What voices are asked to say, and the recordings of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.config import Config
from vits_jax.data.corpora.audio_files import AudioFault, decode
from vits_jax.data.corpora.corpus import Row, read_corpus
from vits_jax.data.manifest import load_dataset
from vits_jax.data.split import split, utterance_key
from vits_jax.errors import UserError
from vits_jax.metrics import Clip

_LOGGER = logging.getLogger(__name__)
SPLITS = ("validation", "test", "all")


@dataclass(frozen=True)
class Utterance:
    """One thing to say.

    Attributes:
        name: for tables.
        text: empty where a dataset does not say.
        phoneme_ids: of the dataset, int ``[ids]``; None where it has to be made of the text.
        speaker: whose recording it is, by name; None with one speaker.
        recording: None where there is none.
    """

    name: str
    text: str
    phoneme_ids: np.ndarray | None = None
    speaker: str | None = None
    recording: Clip | None = None


@dataclass(frozen=True)
class Material:
    """Things to say, in an order that does not depend on how many there are.

    Attributes:
        source: the directory or file.
        split: which part of it; empty where it has none.
        dataset: the ``config.json`` of a prepared directory; empty of anything else.
    """

    source: str
    split: str
    utterances: list[Utterance]
    dataset: Mapping[str, Any]

    @property
    def recordings(self) -> list[Clip]:
        """All that there are."""
        return [each.recording for each in self.utterances if each.recording is not None]


@dataclass(frozen=True)
class Part:
    """Which utterances: a split as training has it, at most so many, of one speaker or all.

    Attributes:
        split: one of `SPLITS`.
        config: of training: what it leaves out, and what of the rest it holds out.
        limit: None for all.
        speaker: by name; one that the data does not know chooses nobody's.
    """

    split: str
    config: Config
    limit: int | None = None
    speaker: str | None = None

    def rows(self, keys: np.ndarray, speakers: Sequence[str | None]) -> list[int]:
        """Rows of it, by their keys: those of fewer are the first of those of more."""
        rows = np.arange(len(keys))
        if self.split != "all":
            data = self.config.data
            parts = split(keys, data.validation_split, data.num_test_examples)
            rows = parts.validation if self.split == "validation" else parts.test
        chosen: list[int] = rows[np.argsort(keys[rows], kind="stable")].tolist()
        if self.speaker is not None and self.speaker in speakers:
            chosen = [row for row in chosen if speakers[row] == self.speaker]
        return chosen[: self.limit]

    def check(self, utterances: Sequence[Utterance], source: object) -> None:
        """Raise `UserError` where there are none."""
        if not utterances:
            raise UserError(
                f"{source}: no utterance in --split {self.split}"
                + ("" if self.speaker is None else f" of {self.speaker}")
                + ": --split all takes every one"
            )


def of_dataset(directory: Path, part: Part) -> Material:
    """Utterances of a prepared directory, with their phoneme ids.

    Raises:
        UserError: it cannot be read, or holds none of them.
    """
    audio, data = part.config.audio, part.config.data
    dataset = load_dataset(
        directory,
        hop_length=audio.hop_length,
        min_samples=audio.min_samples,
        max_phoneme_ids=data.max_phoneme_ids,
        max_frames=data.max_frames,
    )
    config = dataset.config
    names = {number: name for name, number in config.speaker_id_map.items()}
    speakers: list[str | None] = [None] * len(dataset)
    if config.num_speakers > 1:
        speakers = [names.get(int(i), str(int(i))) for i in dataset.speaker_ids]
    utterances = []
    for row in part.rows(dataset.keys, speakers):
        text, name = dataset.text(row), dataset.name(row)
        samples = dataset.audio(row).astype(np.float32) / 32768
        recording = Clip(samples, config.sample_rate, text or None, speakers[row], name=name)
        ids = dataset.phoneme_ids(row).astype(np.int64)
        utterances.append(Utterance(name, text, ids, speakers[row], recording))
    part.check(utterances, directory)
    return Material(str(directory), part.split, utterances, config.raw)


def of_corpus(
    directory: Path, part: Part, *, dataset_format: str = "ljspeech", single_speaker: bool = False
) -> Material:
    """Utterances of a corpus that nobody prepared; its splits are those that it would have.

    Recordings that cannot be decoded are left out, with a warning.

    Raises:
        UserError: it cannot be read, or holds none of them.
    """
    rows = [
        (row, row.audio_path)
        for row in read_corpus(directory, dataset_format, single_speaker).rows
        if row.audio_path is not None
    ]
    keys = [utterance_key(path.name, row.speaker, row.text) for row, path in rows]
    speakers = [row.speaker for row, _ in rows]
    utterances = []
    for number in part.rows(np.asarray(keys, np.uint64), speakers):
        row, path = rows[number]
        try:
            utterances.append(_of_row(row, path))
        except AudioFault as fault:
            _LOGGER.warning("left out: %s: %s", row.where, fault)
    part.check(utterances, directory)
    return Material(str(directory), part.split, utterances, {})


def _of_row(row: Row, path: Path) -> Utterance:
    decoded = decode(path)
    audio = np.clip(decoded.audio, -1, 1)
    recording = Clip(audio, decoded.rate, row.text, row.speaker, name=row.name)
    return Utterance(row.name, row.text, None, row.speaker, recording)


def of_text_file(path: Path, limit: int | None) -> Material:
    """Sentences, one a line, of which there are no recordings.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--text-file {path}: {reason}: expected a sentence a line") from error
    said = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not said:
        raise UserError(f"--text-file {path}: it is empty: expected a sentence a line")
    utterances = [Utterance(f"line {number}", line) for number, line in said[:limit]]
    return Material(str(path), "", utterances, {})
