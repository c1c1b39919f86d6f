"""A dataset directory (``config.json``, ``dataset.jsonl``, audio), read and checked.

What is broken is refused with one line that says where; what merely cannot be trained on
(more phoneme ids than frames) is left out by name.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.data.split import utterance_key
from vits_jax.data.storage import store as stores
from vits_jax.data.storage.packing import pack
from vits_jax.data.unusable import LeftOut, Limits, describe
from vits_jax.data.voice_config import VoiceConfig, is_integer, json_object, read_config, required
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Utterances in columns: row i of every array is one utterance.

    Attributes:
        directory: the prepared directory.
        config: its ``config.json``.
        store: the audio.
        ids: uint16 or int32, the phoneme ids of all utterances one after another.
        id_starts: int64 ``[utterances]``, where each utterance's ids begin in `ids`.
        id_lengths: int32 ``[utterances]``, how many ids it has.
        samples: int32 ``[utterances]``, length of the audio.
        speaker_ids: int32 ``[utterances]``, zeros with one speaker.
        records: int32 ``[utterances]``, number of the audio's record in the store.
        keys: uint64 ``[utterances]``, a hash of text, speaker and file name: the same
          utterance has the same key wherever the directory lies and whatever else is in it.
        lines: int32 ``[utterances]``, line in ``dataset.jsonl``, from 1.
        line_starts: int64 ``[utterances]``, byte at which that line begins.
        left_out: utterances of the directory that are not among these, with their reasons.
    """

    directory: Path
    config: VoiceConfig
    store: stores.Store
    ids: np.ndarray
    id_starts: np.ndarray
    id_lengths: np.ndarray
    samples: np.ndarray
    speaker_ids: np.ndarray
    records: np.ndarray
    keys: np.ndarray
    lines: np.ndarray
    line_starts: np.ndarray
    left_out: list[LeftOut]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def seconds(self) -> float:
        """Length of all the audio."""
        return self.seconds_of(slice(None))

    def seconds_of(self, rows: Any) -> float:
        """Length of the audio of some rows: a sequence of them, or a slice."""
        return float(self.samples[rows].sum(dtype=np.int64)) / self.config.sample_rate

    def phoneme_ids(self, row: int) -> np.ndarray:
        """``[ids]`` of an utterance."""
        start = self.id_starts[row]
        return self.ids[start : start + self.id_lengths[row]]

    def audio(self, row: int) -> np.ndarray:
        """int16 ``[samples]`` of an utterance."""
        return self.store.audio(self.records[row])

    def summary(self) -> Iterator[str]:
        """What is used and what is not, in short."""
        yield from describe(self.left_out, limit=20)
        rows, speakers = len(self) + len(self.left_out), len(np.unique(self.speaker_ids))
        yield (
            f"used {len(self)} of {rows} rows: {self.seconds / 3600:.2f} hours "
            f"({self.seconds:.1f} seconds), {speakers} speaker{'s' * (speakers > 1)}"
        )

    def name(self, row: int) -> str:
        """The file of its recording, without folders and ending."""
        return Path(recording_name(_entry(self.directory, self.line_starts[row]))).stem

    def text(self, row: int) -> str:
        """What is spoken, as ``dataset.jsonl`` says; empty where it does not say."""
        return str(_entry(self.directory, self.line_starts[row]).get("text") or "")


def load_dataset(
    dataset_dir: str | Path,
    *,
    hop_length: int,
    min_samples: int,
    max_phoneme_ids: int | None = None,
    max_frames: int | None = None,
    cache_dir: Path | None = None,
) -> Dataset:
    """Read and check a prepared directory.

    Audio files that ``dataset.jsonl`` names one by one are packed into a store first, once.

    Args:
        dataset_dir: holds ``config.json`` and ``dataset.jsonl``.
        hop_length: samples per frame.
        min_samples: fewest samples that can be analysed.
        max_phoneme_ids: leave out utterances with more.
        max_frames: leave out utterances with more, a last, partial frame included.
        cache_dir: where to pack (default: in `dataset_dir`).

    Raises:
        UserError: anything is missing or broken, or no utterance is left.
    """
    directory = Path(dataset_dir)
    config = read_config(directory)
    columns = _read_columns(directory / "dataset.jsonl", config)
    store, records = _find_audio(directory, config, columns, cache_dir or directory)
    samples = store.samples[records]
    id_lengths = np.asarray(columns.id_lengths)
    limits = Limits(hop_length, min_samples, max_phoneme_ids, max_frames)
    keep = limits.allow(id_lengths, samples)
    left_out = [
        _left_out(directory, columns, row, limits.fault(columns.id_lengths[row], int(samples[row])))
        for row in np.flatnonzero(~keep).tolist()
    ]
    if not keep.any():
        raise UserError(
            f"{columns.path}: no utterance is left of {len(keep)}; the first: {left_out[0]}"
        )
    speaker_ids = np.asarray(columns.speaker_ids)[keep]
    _warn_of_absent_speakers(config, speaker_ids)
    return Dataset(
        directory=directory,
        config=config,
        store=store,
        ids=np.asarray(columns.ids),
        id_starts=(np.cumsum(id_lengths, dtype=np.int64) - id_lengths)[keep],
        id_lengths=id_lengths[keep],
        samples=samples[keep],
        speaker_ids=speaker_ids,
        records=records[keep],
        keys=np.asarray(columns.keys)[keep],
        lines=np.asarray(columns.lines)[keep],
        line_starts=np.asarray(columns.line_starts)[keep],
        left_out=left_out,
    )


@dataclass
class _Columns:
    """``dataset.jsonl`` as it was read, one entry per line.

    `audio` is a record's number where `store` names a store, and an index into `files`
    where it is empty.
    """

    path: Path
    ids: array[int]
    id_lengths: array[int] = field(default_factory=lambda: array("i"))
    speaker_ids: array[int] = field(default_factory=lambda: array("i"))
    keys: array[int] = field(default_factory=lambda: array("Q"))
    lines: array[int] = field(default_factory=lambda: array("i"))
    line_starts: array[int] = field(default_factory=lambda: array("q"))
    audio: array[int] = field(default_factory=lambda: array("i"))
    files: dict[str, int] = field(default_factory=dict)
    store: str | None = None


@dataclass(frozen=True)
class Entry:
    """A line of ``dataset.jsonl``, checked by itself.

    Attributes:
        number, start: which line it is, from 1, and its first byte.
        raw: all that it says.
        ids: phoneme ids.
        speaker_id: 0 with one speaker.
        audio: ``audio_norm_path``.
    """

    number: int
    start: int
    raw: dict[str, Any]
    ids: list[int]
    speaker_id: int
    audio: str

    @property
    def name(self) -> str:
        """The recording's file, without folders, whatever system it was on."""
        return recording_name(self.raw)

    @property
    def key(self) -> int:
        """What `split` goes by."""
        text = self.raw.get("text") or self.ids
        return utterance_key(self.name, self.raw.get("speaker"), text)


def recording_name(entry: dict[str, Any]) -> str:
    """Of a line: its recording's file, without folders, whatever system it was on."""
    recording = str(entry.get("audio_path") or entry.get("audio_norm_path"))
    return Path(recording.replace("\\", "/")).name


@dataclass(frozen=True)
class BrokenLine:
    """A line of ``dataset.jsonl`` that cannot be; `fault` names file and line."""

    number: int
    fault: UserError


def read_entries(path: Path, config: VoiceConfig) -> Iterator[Entry | BrokenLine]:
    """Every line of a ``dataset.jsonl`` that is not blank.

    Raises:
        UserError: no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: preprocess writes it")
    for number, start, line in _lines(path):
        where = f"{path}:{number}"
        try:
            entry = json_object(where, line)
            ids = required(where, entry, "phoneme_ids", list, "a list of whole numbers")
            audio = required(where, entry, "audio_norm_path", str, "the name of its audio")
            _check_ids(where, ids, config)
            speaker_id = _speaker_id(where, entry, config)
        except UserError as fault:
            yield BrokenLine(number, fault)
        else:
            yield Entry(number, start, entry, ids, speaker_id, audio)


def _read_columns(path: Path, config: VoiceConfig) -> _Columns:
    # 16 bits hold Piper's ids and keep the ids of half a million utterances under 200 MB.
    columns = _Columns(path, ids=array("H" if config.num_symbols <= 1 << 16 else "i"))
    for entry in read_entries(path, config):
        if isinstance(entry, BrokenLine):
            raise entry.fault
        record = stores.parse_record_name(entry.audio)
        store = record[0] if record else ""
        if columns.store not in (None, store):
            raise UserError(
                f"{path}:{entry.number}: audio_norm_path {entry.audio!r} is not in "
                f"{columns.store or 'a file'} as in line {columns.lines[0]}: "
                "all audio should be in one store, or all in files"
            )
        columns.store = store
        columns.audio.append(
            record[1] if record else columns.files.setdefault(entry.audio, len(columns.files))
        )
        columns.ids.extend(entry.ids)
        columns.id_lengths.append(len(entry.ids))
        columns.speaker_ids.append(entry.speaker_id)
        columns.keys.append(entry.key)
        columns.lines.append(entry.number)
        columns.line_starts.append(entry.start)
    if not columns.lines:
        raise UserError(f"{path}: no utterance in it")
    return columns


def _check_ids(where: str, ids: list[Any], config: VoiceConfig) -> None:
    if not ids:
        raise UserError(f"{where}: phoneme_ids is empty")
    for number in ids:
        if not is_integer(number) or not 0 <= number < config.num_symbols:
            raise UserError(
                f"{where}: phoneme id {number!r} is not a whole number "
                f"from 0 to {config.num_symbols - 1} (num_symbols in {config.path})"
            )


def _speaker_id(where: str, entry: dict[str, Any], config: VoiceConfig) -> int:
    if config.num_speakers == 1:
        return 0  # as Piper: with one speaker nobody looks at it
    number = entry.get("speaker_id")
    if number is None:
        raise UserError(
            f"{where}: no speaker_id, but num_speakers is {config.num_speakers} in {config.path}"
        )
    if not is_integer(number) or not 0 <= number < config.num_speakers:
        raise UserError(
            f"{where}: speaker_id {number!r} is not a whole number "
            f"from 0 to {config.num_speakers - 1} (num_speakers in {config.path})"
        )
    return number


def _find_audio(
    directory: Path, config: VoiceConfig, columns: _Columns, cache_dir: Path
) -> tuple[stores.Store, np.ndarray]:
    """The store, and the record of each line (int32 ``[lines]``)."""
    audio = np.asarray(columns.audio)
    if not columns.store:
        first_lines = np.asarray(columns.lines)[np.unique(audio, return_index=True)[1]]
        wheres = [f"{columns.path}:{line}" for line in first_lines]
        store, records = pack(directory, cache_dir, config, list(columns.files), wheres)
        return store, records[audio]
    store = stores.open_store(directory / columns.store)
    if store.sample_rate != config.sample_rate:
        raise UserError(
            f"{config.path}: audio.sample_rate is {config.sample_rate}, "
            f"but {store.directory} holds audio of {store.sample_rate}: run preprocess again"
        )
    beyond = np.flatnonzero(audio >= len(store.samples))
    if len(beyond):
        raise UserError(
            f"{columns.path}:{columns.lines[beyond[0]]}: audio_norm_path names record "
            f"{audio[beyond[0]]} of {store.directory}, which has {len(store.samples)}"
        )
    return store, audio


def _left_out(
    directory: Path, columns: _Columns, row: int, fault: tuple[str, str] | None
) -> LeftOut:
    entry = _entry(directory, columns.line_starts[row])
    name = Path(str(entry.get("audio_path") or entry["audio_norm_path"])).name
    return LeftOut(f"dataset.jsonl:{columns.lines[row]}", name, *(fault or ("", "")))


def _warn_of_absent_speakers(config: VoiceConfig, speaker_ids: np.ndarray) -> None:
    if config.num_speakers == 1:
        return
    counts = np.bincount(speaker_ids, minlength=config.num_speakers)
    names = config.speaker_names
    absent = [names[i] for i in np.flatnonzero(counts == 0).tolist()]
    if absent:
        shown = ", ".join(absent[:10]) + (", …" if len(absent) > 10 else "")
        _LOGGER.warning(
            "warning: %d of %d speakers in %s have no utterance: %s",
            len(absent),
            config.num_speakers,
            config.path,
            shown,
        )


def _entry(directory: Path, line_start: int) -> dict[str, Any]:
    with (directory / "dataset.jsonl").open("rb") as file:
        file.seek(int(line_start))
        return json.loads(file.readline().decode("utf-8-sig"))


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number (from 1), first byte and content of each line that is not blank."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, start, line
            start += len(line)
