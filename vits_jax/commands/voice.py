"""``vits-jax voice``: a folder of recordings to a voice, by the commands that there are."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vits_jax.cli import Parser, run
from vits_jax.commands import gather
from vits_jax.commands.corpus_flags import add_corpus_flags
from vits_jax.commands.train import make_parser as make_train_parser
from vits_jax.commands.train import of_flags
from vits_jax.config_checks import seconds_of
from vits_jax.data.corpora.corpus import DATASET, kind_of
from vits_jax.data.gathering.gather import check_texts, recordings
from vits_jax.errors import UserError
from vits_jax.presets import quality_of
from vits_jax.text.languages import language_block

_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = """\
From a folder of recordings to a voice: gather, check, preprocess, train with a warm start until
nothing more is gained or the time is over, export. Each step is a command that is printed before
it runs. Stopped and started again, it goes on where it stopped. What follows -- are flags of
train, which win.
"""
_NAME = re.compile(r"\w{1,64}")
_SHORT_TIME = re.compile(r"(\d{1,3}):([0-5]\d)(?::([0-5]\d))?")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> int:
    argv = list(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    flags = make_parser().parse(argv[:at])
    if not _NAME.fullmatch(flags.name):
        raise UserError(
            f"--name {flags.name!r}: expected letters, digits and _ (at most 64): the files of a "
            "voice are called LANGUAGE-NAME-QUALITY.onnx"
        )
    gather.check_longest(flags.longest)
    seconds = None if flags.max_time is None else _seconds(flags.max_time)
    corpus_flags = tuple(shlex.split(flags.corpus_flags))
    _check_corpus_flags(corpus_flags)
    out = flags.out or Path("voices") / flags.name
    kind = _kind(flags)
    if out.absolute().is_relative_to(flags.folder.absolute()):
        raise UserError(f"--out {out}: it lies in {flags.folder}: name a directory elsewhere")
    train_flags = tuple(argv[at + 1 :])
    given = vars(make_train_parser().parse(train_flags))

    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.recipe import make, steps
    from vits_jax.recipe.base import read_base

    for name in steps.OWN_FLAGS:
        if name in given:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"-- {flag}: it is voice's own (--from, --out, --max-time): leave it out"
            )
    base = read_base(flags.base, flags.voice_config)
    language = flags.language or base.language
    if language is None:
        raise UserError(f"{flags.base} does not say its language: name one with --language")
    code = str(language_block(language, base.phoneme_type)["code"]).replace("/", "_")
    recipe = steps.Recipe(
        folder=flags.folder,
        kind=kind,
        base=base,
        name="-".join([code, flags.name, *_quality(given, base, out)]),
        language=language,
        out=out,
        max_seconds=seconds,
        recogniser=flags.recogniser,
        longest=flags.longest,
        corpus_flags=corpus_flags,
        train_flags=train_flags,
        given=given,
    )
    if flags.dry_run:
        print("\n".join(make.dry_run(recipe)))
        return 0
    return make.make(recipe)


def make_parser() -> Parser:
    """Of its flags, without those of ``train`` after ``--``."""
    parser = Parser("voice", _DESCRIPTION)
    add = parser.add_argument
    add(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="recordings with their texts beside them (a.wav, a.txt), recordings alone with "
        "--recogniser, or a corpus that preprocess reads",
    )
    add(
        "--from",
        dest="base",
        type=Path,
        required=True,
        metavar="BASE",
        help="begin with a published voice (.onnx), a .ckpt or a run directory: its rate, its "
        "phonemes, its network",
    )
    add("--name", required=True, metavar="NAME", help="of the voice: letters, digits and _")
    add("--language", metavar="VOICE", help="espeak-ng voice (default: BASE's)")
    add(
        "--max-time",
        metavar="TIME",
        help="of training, over all starts: HH:MM, HH:MM:SS or DD:HH:MM:SS (default: until nothing "
        "is gained)",
    )
    add("--out", type=Path, metavar="DIR", help="where all goes (default: voices/NAME)")
    add("--voice-config", type=Path, metavar="FILE", help="JSON of BASE, where not beside it")
    gather.add_gathering_flags(parser)
    add(
        "--corpus-flags",
        default="",
        metavar="FLAGS",
        help="of check and preprocess, as one argument: '--single-speaker --exclude clipped'",
    )
    add("--dry-run", action="store_true", help="print the commands and do nothing")
    return parser


def _seconds(text: str) -> int:
    short = _SHORT_TIME.fullmatch(text)
    if short is None:
        found = seconds_of(text)
    else:
        hours, minutes, seconds = (int(part or 0) for part in short.groups())
        found = (hours * 60 + minutes) * 60 + seconds
    if not found:
        raise UserError(
            f"--max-time {text}: expected HH:MM, HH:MM:SS or DD:HH:MM:SS, more than none"
        )
    return found


def _check_corpus_flags(words: Sequence[str]) -> None:
    parser = Parser("--corpus-flags", "", prefix="")
    add_corpus_flags(parser)
    try:
        parser.parse(words)
    except UserError as error:
        raise UserError(f"--corpus-flags: {error}") from None


def _kind(flags: Any) -> str:
    """What is in the folder; all that would stop `gather` is said here already."""
    from vits_jax.recipe.steps import RECORDINGS

    if not flags.folder.is_dir():
        raise UserError(f"{flags.folder} is not a directory: expected a folder of recordings")
    try:
        kind = kind_of(flags.folder)
    except UserError:
        check_texts(
            recordings(flags.folder, flags.out or flags.folder), flags.recogniser, flags.longest
        )
        return RECORDINGS
    if kind == DATASET:
        raise UserError(
            f"{flags.folder} is prepared already: use vits-jax train --dataset-dir {flags.folder} "
            f"--warmstart_ckpt {flags.base}"
        )
    if flags.recogniser is not None:
        raise UserError(f"--recogniser {flags.recogniser}: {flags.folder} has texts (metadata)")
    return kind


def _quality(given: Mapping[str, Any], base: Any, out: Path) -> list[str]:
    """What the voice's file calls its quality; nothing where it has the sizes of no preset.

    Raises:
        UserError: a flag of `train` that cannot be.
    """
    own = {} if {"quality", "config"} & given.keys() else base.model_flags()
    flags = {"dataset_dir": str(out), **own, **given}
    config = of_flags(flags if "batch_frames" in flags else {"batch_size": "32", **flags})[0]
    quality = quality_of(config.replaced({"sample_rate": base.sample_rate}))
    return [quality] if quality else []
