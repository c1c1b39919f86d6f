"""``python -m vits_jax.preprocess``: a corpus to a directory that ``train`` reads."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vits_jax.cli import Parser, run
from vits_jax.data.prepare import Settings, available_processors, prepare
from vits_jax.errors import UserError
from vits_jax.text import PHONEME_TYPES

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
    settings = _settings(argv)
    # SystemExit unwinds: what is half-written is removed on the way.
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        summary = prepare(settings)
    finally:
        signal.signal(signal.SIGTERM, previous)
    for line in summary.lines():
        _LOGGER.info("%s", line)
    _LOGGER.info(
        "train with: python -m vits_jax.train --dataset-dir %s --quality medium --batch-size 32",
        settings.output_dir,
    )


def _settings(argv: Sequence[str]) -> Settings:
    parser = Parser("preprocess", _DESCRIPTION)
    add = parser.add_argument
    add("--input-dir", type=Path, required=True, metavar="DIR", help="the corpus")
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
        help="sample rate of the voice: 22050, or 16000 for x-low and low",
    )
    add(
        "--dataset-format",
        choices=("ljspeech", "mycroft"),
        required=True,
        help="ljspeech: metadata.csv with id|text or id|speaker|text, recordings in wav/ or wavs/",
    )
    add(
        "--single-speaker",
        action="store_true",
        help="one speaker, whatever the second of three columns says (LJ Speech itself)",
    )
    add("--speaker-id", type=int, metavar="N", help="speaker_id to write for a single speaker")
    add(
        "--phoneme-type",
        choices=PHONEME_TYPES,
        default="espeak",
        help="espeak-ng's phonemes, or the characters of the text itself",
    )
    add(
        "--max-workers",
        type=int,
        default=available_processors(),
        metavar="N",
        help="processes that work at once",
    )
    add("--debug", action="store_true", help="also log each row's phonemes")
    flags = parser.parse(argv)
    if flags.dataset_format != "ljspeech":
        raise UserError(
            f"--dataset-format {flags.dataset_format} is not built yet: "
            "bring the corpus into the ljspeech format"
        )
    if flags.single_speaker and flags.speaker_id is not None:
        raise UserError("--single-speaker and --speaker-id: expected one of the two")
    for name, least in (("sample_rate", 1), ("speaker_id", 0), ("max_workers", 1)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    if flags.debug:
        logging.getLogger("vits_jax").setLevel(logging.DEBUG)
    return Settings(
        input_dir=flags.input_dir,
        output_dir=flags.output_dir,
        language=flags.language,
        sample_rate=flags.sample_rate,
        single_speaker=flags.single_speaker,
        speaker_id=flags.speaker_id,
        phoneme_type=flags.phoneme_type,
        max_workers=flags.max_workers,
    )


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
