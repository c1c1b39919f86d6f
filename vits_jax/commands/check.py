"""``python -m vits_jax.check``: what is wrong with a corpus, or with a prepared directory."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vits_jax.cli import Parser, run
from vits_jax.commands.corpus_flags import add_corpus_flags, corpus_settings
from vits_jax.config import Config
from vits_jax.data.checks.report import Report
from vits_jax.data.corpora.clean import check_out, write_lines, write_rows
from vits_jax.data.corpora.corpus import DATASET, LJSPEECH, MYCROFT, kind_of
from vits_jax.data.corpora.settings import location
from vits_jax.errors import UserError
from vits_jax.presets import preset

if TYPE_CHECKING:
    import numpy as np

_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = """\
Look at a corpus before it is prepared, or at a prepared directory before it is trained on:
every row that will not be used, with the reason; rows that look wrong; hours, speakers,
lengths, symbols; batches and the memory that they take. Nothing in DIR is changed.
"""
DEFAULT_BATCH_SIZE = 32


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


@dataclass(frozen=True)
class _Checked:
    """A report, and what `--html` and `--write-clean` need beside it."""

    report: Report
    listen: Callable[[str], tuple[np.ndarray, int] | None]
    write_clean: Callable[[Path], None]


def _main(argv: Sequence[str]) -> None:
    parser = make_parser()
    flags = parser.parse(argv)
    for name in ("batch_size", "batch_frames", "max_phoneme_ids", "max_frames", "max_workers"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    if flags.batch_frames is None:
        flags.batch_size = flags.batch_size or DEFAULT_BATCH_SIZE
    elif flags.batch_size is not None:
        both = f"--batch-size {flags.batch_size} and --batch-frames {flags.batch_frames}"
        raise UserError(f"{both}: expected one of the two")
    config = preset(flags.quality)
    kind = kind_of(flags.directory) if flags.dataset_format == "auto" else flags.dataset_format
    if kind == DATASET:
        _refuse_corpus_flags(parser, flags)
    check = _check_dataset if kind == DATASET else _check_corpus
    checked = check(flags, kind, config)
    report = checked.report
    if flags.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False, indent=2))
    else:
        from rich.console import Console

        from vits_jax.data.checks.report_terminal import show

        show(report, Console())
    if flags.html is not None:
        from vits_jax.data.checks.report_page import write_page

        try:
            write_page(report, checked.listen, flags.html)
        except OSError as error:
            raise UserError(f"--html {flags.html}: {error.strerror}") from error
        _LOGGER.info("page: %s", flags.html)
    if flags.write_clean is not None:
        checked.write_clean(flags.write_clean)
        _LOGGER.info("%d rows: %s", report.used, flags.write_clean)


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("check", _DESCRIPTION)
    add = parser.add_argument
    add("directory", type=location, metavar="DIR", help="a corpus, or what preprocess wrote")
    add("--json", action="store_true", help="print the report as JSON")
    add("--html", type=Path, metavar="FILE", help="write the report as a page, with players")
    add("--write-clean", type=Path, metavar="OUT", help="write metadata of the rows that are used")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"as of train, for the report's batches and memory (default: {DEFAULT_BATCH_SIZE})",
    )
    add("--batch-frames", type=int, metavar="N", help="as of train, instead of --batch-size")
    add(
        "--quality",
        default="medium",
        metavar="NAME",
        help="preset to train with, for the report (default: medium)",
    )
    add(
        "--max-phoneme-ids",
        type=int,
        metavar="N",
        help="as of train: leave out texts with more phoneme ids",
    )
    add(
        "--max-frames",
        type=int,
        metavar="N",
        help="as of train: leave out recordings with more frames",
    )
    corpus = parser.add_argument_group("of a corpus, as preprocess has them")
    corpus.add_argument(
        "--dataset-format",
        choices=("auto", LJSPEECH, MYCROFT),
        default="auto",
        help="of the corpus (default: by the files that are there)",
    )
    corpus.add_argument(
        "--language",
        default=None,
        metavar="VOICE",
        help="espeak-ng voice (default: en-us, and the report says so)",
    )
    corpus.add_argument(
        "--sample-rate",
        type=int,
        default=22050,
        metavar="HERTZ",
        help="sample rate of the voice (default: 22050)",
    )
    add_corpus_flags(parser)
    return parser


def _refuse_corpus_flags(parser: Parser, flags: argparse.Namespace) -> None:
    """A prepared directory was prepared as it was: flags of a corpus would do nothing."""
    names = ["language", "sample_rate", "single_speaker", "phoneme_type", "text_casing"]
    names += ["tashkeel", "phonemes_path", "dataset_type", "trim", "max_seconds"]
    names += ["keep_seconds_before_silence", "keep_seconds_after_silence"]
    for name in names:
        if getattr(flags, name) != parser.get_default(name):
            raise UserError(
                f"--{name.replace('_', '-')} is for a corpus: "
                f"{flags.directory} is prepared, its config.json says how"
            )


# A corpus


def _check_corpus(flags: argparse.Namespace, kind: str, config: Config) -> _Checked:
    from vits_jax.data.checks import examine
    from vits_jax.data.corpora import audio_files
    from vits_jax.data.preparing.workers import workers

    assumed = flags.language is None and flags.phoneme_type == "espeak"
    if flags.language is None:
        flags.language = "en-us"
    settings = corpus_settings(
        flags,
        input_dir=flags.directory,
        dataset_format=kind,
        max_phoneme_ids=flags.max_phoneme_ids,
        max_frames=flags.max_frames,
        audio=config.audio,
    )
    corpus = examine.open_corpus(settings)
    if assumed:
        corpus.notes.append("phonemes are those of en-us: say --language for another")
    sources = {row.where.rpartition(":")[0] for row in corpus.rows}
    if flags.write_clean is not None:
        paths = [flags.directory / source for source in sources]
        flags.write_clean = check_out(flags.write_clean, paths, "metadata.csv")
    with workers(settings.max_workers) as submit:
        heard = examine.listen(settings, corpus.rows, submit)
        examined = examine.examine(settings, corpus, heard, submit)
    report, excluded = examine.report_of(settings, corpus, examined)
    table = examined.table.without(excluded)
    rows = {row.where: row for row in corpus.rows}

    def listen(where: str) -> tuple[np.ndarray, int] | None:
        row = rows.get(where)
        if row is None or row.audio_path is None:
            return None
        try:
            return audio_files.decode(row.audio_path)[:2]
        except audio_files.AudioFault:
            return None

    def write_clean(out: Path) -> None:
        if kind == LJSPEECH:
            kept = {int(where.rpartition(":")[2]) for where in table.where}
            write_lines(flags.directory / "metadata.csv", kept, out)
        else:
            write_rows(flags.directory, [rows[where] for where in table.where], out)

    return _Checked(_planned(report, table, flags, config), listen, write_clean)


# A prepared directory


def _check_dataset(flags: argparse.Namespace, kind: str, config: Config) -> _Checked:
    from vits_jax.data.checks.examine_prepared import examine_prepared
    from vits_jax.data.checks.report import make_report
    from vits_jax.data.corpora.audio_files import AudioFault
    from vits_jax.data.preparing.workers import workers
    from vits_jax.data.storage import packing
    from vits_jax.data.unusable import Limits

    manifest = flags.directory / "dataset.jsonl"
    if flags.write_clean is not None:
        flags.write_clean = check_out(flags.write_clean, [manifest], "dataset.jsonl")
    audio = config.audio
    limits = Limits(audio.hop_length, audio.min_samples, flags.max_phoneme_ids, flags.max_frames)
    with workers(flags.max_workers) as submit:
        prepared = examine_prepared(flags.directory, submit, limits)
    rate, id_map = prepared.config.sample_rate, prepared.config.raw.get("phoneme_id_map")
    report, excluded = make_report(
        str(flags.directory),
        prepared.rows,
        prepared.examined.table,
        prepared.examined.left_out,
        rate,
        exclude=flags.exclude,
        symbols=prepared.examined.symbols,
        id_map=id_map if isinstance(id_map, dict) else (),
    )
    table = prepared.examined.table.without(excluded)

    def listen(where: str) -> tuple[np.ndarray, int] | None:
        if where in prepared.files:
            try:
                return packing.read_file(prepared.files[where], rate).samples / 32768.0, rate
            except AudioFault:
                return None
        if prepared.store is not None and where in prepared.records:
            return prepared.store.audio(prepared.records[where]) / 32768.0, rate
        return None

    def write_clean(out: Path) -> None:
        write_lines(manifest, {int(where.rpartition(":")[2]) for where in table.where}, out)

    return _Checked(_planned(report, table, flags, config), listen, write_clean)


def _planned(report: Report, table: Any, flags: argparse.Namespace, config: Config) -> Report:
    """The report, with what training on it would be like."""
    from vits_jax.data.checks.report import plan_training
    from vits_jax.data.checks.step_memory import predict

    if not report.used:
        return report
    training = plan_training(
        table,
        batch_size=flags.batch_size,
        batch_frames=flags.batch_frames,
        hop_length=config.audio.hop_length,
        segment_frames=config.segment_frames,
        num_buckets=config.data.num_buckets,
        validation_split=config.data.validation_split,
        num_test_examples=config.data.num_test_examples,
    )
    memory = max(
        (predict(flags.quality, b.rows, b.phonemes, b.frames) or 0 for b, _ in training.buckets),
        default=0,
    )
    return replace(report, training=replace(training, memory=memory or None))
