"""The flags that ``preprocess`` and ``check`` share: what a corpus is, and how it is prepared."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from vits_jax.cli import Parser
from vits_jax.config import AudioConfig
from vits_jax.data.corpora.audio_files import KEEP_SECONDS, RATES
from vits_jax.data.corpora.settings import CONTENTS, MAX_SECONDS, Settings, Speaking
from vits_jax.data.corpora.table import WARNINGS
from vits_jax.data.preparing.workers import available_processors
from vits_jax.errors import UserError
from vits_jax.text import PHONEME_TYPES, TEXT_CASINGS


def add_corpus_flags(parser: Parser) -> None:
    """Flags that say how a corpus is read and prepared; see `corpus_settings`."""
    add = parser.add_argument
    add(
        "--single-speaker",
        action="store_true",
        help="one speaker, whatever the second of three columns says (LJ Speech itself)",
    )
    add(
        "--phoneme-type",
        choices=PHONEME_TYPES,
        default="espeak",
        help="espeak-ng's phonemes, the characters of the text itself, or those of one of "
        "piper-tts's phonemizers for single languages",
    )
    add(
        "--text-casing",
        choices=TEXT_CASINGS,
        default="ignore",
        help="casing of the text before it becomes phonemes (default: as it is)",
    )
    add("--tashkeel", action="store_true", help="add the vowels to Arabic text first")
    add(
        "--phonemes-path",
        type=Path,
        metavar="FILE",
        help="JSON with a symbol map of your own, symbol to id or list of ids, or a voice's JSON",
    )
    add(
        "--dataset-type",
        choices=CONTENTS,
        default="text",
        help="phoneme_ids: a last column holds ready-made ids, separated by spaces",
    )
    add(
        "--trim",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cut off the silence around the speech",
    )
    for side in ("before", "after"):
        add(
            f"--keep-seconds-{side}-silence",
            type=float,
            default=KEEP_SECONDS,
            metavar="SECONDS",
            help=f"silence to keep {side} the speech (default: {KEEP_SECONDS})",
        )
    add(
        "--max-seconds",
        type=float,
        default=MAX_SECONDS,
        metavar="SECONDS",
        help=f"leave out longer recordings, trimmed (default: {MAX_SECONDS:g})",
    )
    add(
        "--exclude",
        type=_kinds,
        default=frozenset(),
        metavar="KINDS",
        help="leave out what is otherwise warned of, separated by commas: "
        f"{', '.join(WARNINGS)}, or all",
    )
    add(
        "--max-workers",
        type=int,
        default=available_processors(),
        metavar="N",
        help="processes that work at once (1: none but this one, which a crash of a decoder ends)",
    )


def corpus_settings(
    flags: Any,
    *,
    input_dir: Path,
    dataset_format: str,
    speaker_id: int | None = None,
    skip_audio: bool = False,
    max_phoneme_ids: int | None = None,
    max_frames: int | None = None,
    audio: AudioConfig | None = None,
) -> Settings:
    """The settings that the flags stand for.

    Keyword arguments are settings that have no flag in both commands.

    Raises:
        UserError: a value that cannot be.
    """
    for name, least in (("sample_rate", RATES[0]), ("max_workers", 1)):
        value = getattr(flags, name)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    keep = (flags.keep_seconds_before_silence, flags.keep_seconds_after_silence)
    for side, seconds in zip(("before", "after"), keep):
        if not (math.isfinite(seconds) and seconds >= 0):
            raise UserError(f"--keep-seconds-{side}-silence {seconds:g}: expected at least 0")
    if not (math.isfinite(flags.max_seconds) and flags.max_seconds > 0):
        raise UserError(f"--max-seconds {flags.max_seconds:g}: expected above 0")
    speaking = Speaking(
        language=flags.language,
        phoneme_type=flags.phoneme_type,
        text_casing=flags.text_casing,
        tashkeel=flags.tashkeel,
        phonemes_path=flags.phonemes_path,
    )
    return Settings(
        input_dir=input_dir,
        sample_rate=flags.sample_rate,
        speaking=speaking,
        audio=audio or AudioConfig(),
        dataset_format=dataset_format,
        dataset_type=flags.dataset_type,
        single_speaker=flags.single_speaker,
        speaker_id=speaker_id,
        skip_audio=skip_audio,
        trim=flags.trim,
        keep_seconds=keep,
        max_seconds=flags.max_seconds,
        max_phoneme_ids=max_phoneme_ids,
        max_frames=max_frames,
        exclude=flags.exclude,
        max_workers=flags.max_workers,
    )


def _kinds(text: str) -> frozenset[str]:
    kinds = {kind.strip().replace("_", "-") for kind in text.split(",")}
    if "all" in kinds:
        return frozenset(WARNINGS)
    for kind in sorted(kinds - set(WARNINGS)):
        raise argparse.ArgumentTypeError(
            f"{kind!r} is not known: use {', '.join(WARNINGS)}, or all"
        )
    return frozenset(kinds)
