"""``python -m vits_jax.preprocess``: a corpus to a directory that ``train`` reads."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from vits_jax.cli import Parser, run
from vits_jax.commands.corpus_flags import add_corpus_flags, corpus_settings
from vits_jax.data.corpora.settings import Output, Settings, location
from vits_jax.data.corpora.tfds_corpora import CORPORA, convert
from vits_jax.data.preparing.prepare import prepare
from vits_jax.errors import UserError

if TYPE_CHECKING:
    from vits_jax.data.preparing.beam import Cluster

_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = """\
Prepare a corpus for training: phonemes, and the audio as mono at one sample rate with the
silence around it cut off. Rows that cannot be used are left out and named with the reason.
Running it again does over only what has changed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    settings, output, cluster = _settings(argv)
    # SystemExit unwinds: what is half-written is removed on the way.
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        report = prepare(settings, output, cluster)
    finally:
        signal.signal(signal.SIGTERM, previous)
    for line in report.lines():
        _LOGGER.info("%s", line)
    if settings.skip_audio:
        _LOGGER.info("without audio: to train, run it again without --skip-audio")
        return
    _LOGGER.info(
        "train with: python -m vits_jax.train --dataset-dir %s --quality medium --batch-size 32",
        output.directory,
    )


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("preprocess", _DESCRIPTION)
    add = parser.add_argument
    add(
        "--input-dir",
        type=location,
        metavar="DIR",
        help="the corpus, gs://… too (of --tfds: TFDS's data_dir)",
    )
    add(
        "--output-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="where config.json, dataset.jsonl and the audio go: train's --dataset-dir",
    )
    add("--language", required=True, metavar="VOICE", help="espeak-ng voice, such as en-us or de")
    add(
        "--sample-rate",
        type=int,
        required=True,
        metavar="HERTZ",
        help="sample rate of the voice: 22050, or 16000 for x-low and low, 44100 for high-44k, "
        "48000 for high-48k",
    )
    add(
        "--dataset-format",
        choices=("ljspeech", "mycroft"),
        help="ljspeech: metadata.csv with id|text or id|speaker|text, recordings beside it or in "
        "wav/ or wavs/; mycroft: a folder per speaker with *-metadata.txt, file|text|length",
    )
    add(
        "--tfds",
        metavar="NAME[:CONFIG]",
        help=f"instead of a corpus, a prepared TFDS dataset: {', '.join(CORPORA)} "
        "(needs TensorFlow, once)",
    )
    add_corpus_flags(parser)
    add("--speaker-id", type=int, metavar="N", help="speaker_id to write for a single speaker")
    add("--skip-audio", action="store_true", help="make phonemes only: not enough to train on")
    add(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="where recordings that are done wait until all are (default: in --output-dir)",
    )
    add(
        "--dataset-name",
        metavar="NAME",
        help="for config.json (default: name of the corpus's folder)",
    )
    add(
        "--audio-quality",
        metavar="NAME",
        help="for config.json (default: none; the export names the preset trained with)",
    )
    add(
        "--beam-runner",
        metavar="NAME",
        help="do the work with Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, …",
    )
    add(
        "--beam-options",
        default="",
        metavar="FLAGS",
        help="the runner's own flags, as one argument: '--project=… --region=…'",
    )
    add("--debug", action="store_true", help="also log each row's phonemes")
    return parser


def _settings(argv: Sequence[str]) -> tuple[Settings, Output, Cluster | None]:
    flags = make_parser().parse(argv)
    if flags.debug:
        logging.getLogger("vits_jax").setLevel(logging.DEBUG)
    if flags.tfds is not None:
        if flags.dataset_format is not None:
            raise UserError("--tfds and --dataset-format: expected one of the two")
        parent = flags.cache_dir or flags.output_dir
        flags.input_dir = convert(flags.tfds, flags.input_dir, parent)
        flags.dataset_format = "ljspeech"
        flags.dataset_name = flags.dataset_name or flags.tfds.partition(":")[0]
    for name in ("input_dir", "dataset_format"):
        if getattr(flags, name) is None:
            raise UserError(f"--{name.replace('_', '-')} is missing (--help lists the flags)")
    if flags.single_speaker and flags.speaker_id is not None:
        raise UserError("--single-speaker and --speaker-id: expected one of the two")
    if flags.speaker_id is not None and flags.speaker_id < 0:
        raise UserError(f"--speaker-id {flags.speaker_id}: expected at least 0")
    settings = corpus_settings(
        flags,
        input_dir=flags.input_dir,
        dataset_format=flags.dataset_format,
        speaker_id=flags.speaker_id,
        skip_audio=flags.skip_audio,
    )
    output = Output(flags.output_dir, flags.cache_dir, flags.dataset_name, flags.audio_quality)
    if flags.beam_runner is None:
        if flags.beam_options:
            raise UserError("--beam-options goes with --beam-runner")
        return settings, output, None
    from vits_jax.data.preparing import beam  # needs more than the rest

    beam.check_installed()
    parent = flags.cache_dir or flags.output_dir
    return settings, output, beam.Cluster(flags.beam_runner, flags.beam_options, parent)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
