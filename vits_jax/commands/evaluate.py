"""``vits-jax evaluate``: how good a voice is, held against recordings it was not trained on.

    vits-jax evaluate runs/anna --dataset-dir DATA --html anna.html
    vits-jax evaluate runs/anna en_US-joe-medium.onnx --dataset-dir DATA --json figures.json
    vits-jax evaluate anna.onnx --text-file sentences.txt --metrics dnsmos,wer,loudness

A voice is a checkpoint (a run directory, one step of it, a ``.ckpt``) or an ``.onnx`` with its
JSON beside it, ours or Piper's. What each metric is, and what recordings get: docs/metrics.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vits_jax import files
from vits_jax.cli import Parser, run
from vits_jax.config import Config
from vits_jax.errors import UserError

if TYPE_CHECKING:
    from vits_jax.evaluation.material import Material, Part
    from vits_jax.metrics import Metric
    from vits_jax.voice.any_voice import AnyVoice

_LOGGER = logging.getLogger(__name__)
_DESCRIPTION = """\
Have a voice say what it was not trained on, and say how near it comes to the recordings, how
natural and how understandable it is; of two voices, which is better and how surely.
"""
_OF_ALL_DATA = ("split", "limit", "speaker")
_OF_CORPUS = ("dataset_format", "single_speaker")
_OF_SPLIT = ("validation_split", "num_test_examples")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = _checked(make_parser().parse(argv))
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.evaluation.comparison import compare

    metrics = _metrics(flags)
    for path in filter(None, (flags.json, flags.html)):
        files.check_writable(path.parent)
    voices = _voices(flags)
    material = _material(flags, voices)
    speaker = flags.speaker
    comparison = compare(material, voices, metrics, speaker=speaker, seed=flags.seed)

    from rich.console import Console

    from vits_jax.evaluation.shown import show

    show(comparison, Console())
    if flags.json is not None:
        text = json.dumps(comparison.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
        files.write({flags.json: f"{text}\n".encode()})
        _LOGGER.info("figures: %s", flags.json)
    if flags.html is not None:
        from vits_jax.evaluation.page import write_page

        try:
            write_page(comparison, flags.html)
        except OSError as error:
            raise UserError(f"--html {flags.html}: {error.strerror}") from error
        _LOGGER.info("page: %s", flags.html)


def _checked(flags: argparse.Namespace) -> argparse.Namespace:
    if len(flags.voices) > 2:
        raise UserError(f"{len(flags.voices)} voices: expected one, or two to compare")
    if len(flags.voice_config) > len(flags.voices):
        raise UserError("--voice-config: expected one a voice at most")
    given = [n for n in ("dataset_dir", "corpus", "text_file") if getattr(flags, n) is not None]
    if len(given) != 1:
        raise UserError("expected one of --dataset-dir DATA, --corpus DIR and --text-file FILE")
    (kind,) = given
    of_others = {
        "dataset_dir": _OF_CORPUS,
        "corpus": (),
        "text_file": (*_OF_CORPUS, *_OF_SPLIT, "split"),
    }[kind]
    for name in of_others:
        if getattr(flags, name) not in (None, False):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} says nothing of --{kind.replace('_', '-')}: leave it out")
    if flags.limit is not None and flags.limit < 1:
        raise UserError(f"--limit {flags.limit}: expected at least 1")
    share = flags.validation_split
    if share is not None and not 0 <= share < 1:
        raise UserError(f"--validation-split {share:g}: expected from 0 to below 1")
    if flags.num_test_examples is not None and flags.num_test_examples < 0:
        raise UserError(f"--num-test-examples {flags.num_test_examples}: expected at least 0")
    return flags


def _metrics(flags: argparse.Namespace) -> list[Metric]:
    from vits_jax.metrics import plugin, selected

    if flags.metric:
        # As `python -m` has it: a file beside which one stands can be named.
        sys.path.insert(0, str(Path.cwd()))
    plugins = [plugin(where) for where in flags.metric]
    metrics = [*selected("all" if flags.metrics is None else flags.metrics), *plugins]
    names = [metric.name for metric in metrics]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two metrics are called {twice!r}: give the function another name")
    return metrics


def _voices(flags: argparse.Namespace) -> list[AnyVoice]:
    from vits_jax.voice.any_voice import open_voice

    if not all(voice.endswith(".onnx") for voice in flags.voices):
        from vits_jax.compilation import use_cache

        use_cache()
    configs = [*flags.voice_config, None]
    return [
        open_voice(
            voice,
            configs[min(i, len(configs) - 1)],
            noise_scale=flags.noise_scale,
            length_scale=flags.length_scale,
            noise_w=flags.noise_w,
            seed=flags.seed,
        )
        for i, voice in enumerate(flags.voices)
    ]


def _material(flags: argparse.Namespace, voices: Sequence[AnyVoice]) -> Material:
    from vits_jax.evaluation import material

    if flags.text_file is not None:
        return material.of_text_file(flags.text_file, flags.limit)
    part = _part(flags, voices)
    if flags.dataset_dir is not None:
        return material.of_dataset(flags.dataset_dir, part)
    return material.of_corpus(
        flags.corpus,
        part,
        dataset_format=flags.dataset_format or "ljspeech",
        single_speaker=flags.single_speaker,
    )


def _part(flags: argparse.Namespace, voices: Sequence[AnyVoice]) -> Part:
    """Which utterances, held out as the voices' own runs held them out."""
    from vits_jax.evaluation.material import Part

    split = flags.split or ("validation" if flags.dataset_dir is not None else "all")
    runs = [voice.trained for voice in voices if voice.trained is not None]
    config = runs[0] if runs else _as_trained(voices[0])
    asked = {name: value for name in _OF_SPLIT if (value := getattr(flags, name)) is not None}
    for name in _OF_SPLIT if split != "all" else ():
        said = sorted({getattr(run.data, name) for run in runs})
        if name not in asked and len(said) > 1:
            raise UserError(
                f"the two runs were trained with {name} {' and '.join(map(str, said))}: "
                f"--{name.replace('_', '-')} says which utterances to take"
            )
    return Part(split, config.replaced(asked), flags.limit, flags.speaker)


def _as_trained(voice: AnyVoice) -> Config:
    """What a run is told unless it is told something else; a voice's JSON has its hop at most."""
    hop = voice.dataset.get("hop_length")
    return Config().replaced({"hop_length": hop} if isinstance(hop, int) and hop > 0 else {})


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("evaluate", _DESCRIPTION)
    add = parser.add_argument
    add("voices", nargs="+", metavar="VOICE", help="a checkpoint or an .onnx; two are compared")
    add(
        "--voice-config",
        action="append",
        default=[],
        metavar="FILE",
        help="JSON of the first voice, given again of the second: of a .ckpt, or of an .onnx "
        "that has it elsewhere than beside it",
    )
    what = parser.add_argument_group("what is said: one of")
    what.add_argument(
        "--dataset-dir", type=Path, metavar="DATA", help="what preprocess wrote: recordings, texts"
    )
    what.add_argument("--corpus", type=Path, metavar="DIR", help="a corpus that is not prepared")
    what.add_argument(
        "--text-file", type=Path, metavar="FILE", help="a sentence a line, without recordings"
    )
    which = parser.add_argument_group("which of it")
    which.add_argument(
        "--split",
        choices=("validation", "test", "all"),
        help="which utterances (default: validation of --dataset-dir, all of --corpus)",
    )
    which.add_argument("--limit", type=int, metavar="N", help="at most so many")
    which.add_argument(
        "--speaker",
        metavar="NAME|ID",
        help="who speaks, of a voice with several, and whose recordings, of data with several "
        "(default: each what that speaker's recording is of)",
    )
    which.add_argument(
        "--validation-split",
        type=float,
        metavar="SHARE",
        help="as of train (default: that of the voice's run, else train's default)",
    )
    which.add_argument("--num-test-examples", type=int, metavar="N", help="as of train, likewise")
    which.add_argument(
        "--dataset-format", choices=("ljspeech", "mycroft"), help="of --corpus (default: ljspeech)"
    )
    which.add_argument(
        "--single-speaker",
        action="store_true",
        help="of --corpus: one speaker, whatever the second of three columns says",
    )
    how = parser.add_argument_group("how it is scored")
    how.add_argument(
        "--metrics",
        metavar="NAMES",
        help="separated by commas; cheap: those that need no network (default: all)",
    )
    how.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="one of your own: clips to a float each; may be given more than once",
    )
    how.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    how.add_argument("--html", type=Path, metavar="FILE", help="write a page with players here")
    speaking = parser.add_argument_group("how it is spoken (default: as the voice's JSON says)")
    speaking.add_argument("--noise-scale", type=float, help="how much the sound varies")
    speaking.add_argument("--length-scale", type=float, help="how long phonemes last")
    speaking.add_argument("--noise-w", "--noise-w-scale", type=float, help="how durations vary")
    speaking.add_argument("--seed", type=int, default=0, help="of voice and intervals (default: 0)")
    return parser
