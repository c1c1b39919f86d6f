"""``python -m vits_jax.train``: flags to a configuration, a configuration to a run."""

from __future__ import annotations

import argparse
import functools
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vits_jax.cli import Parser, run
from vits_jax.commands import foreign_flags
from vits_jax.config import FIELDS, NO_FLAGS, Config, Field, read_yaml
from vits_jax.config_checks import check, check_batch
from vits_jax.errors import UserError
from vits_jax.flag_types import convert, describe
from vits_jax.presets import preset_names, preset_path

DEFAULT_QUALITY = "medium"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(functools.partial(_main, own_process=argv is None), argv)


def _main(argv: Sequence[str], own_process: bool) -> int:
    config, given = of_flags(vars(make_parser().parse(argv)))
    if own_process:
        gc.disable()  # what is imported stays: looking through it is a tenth of the imports' time
    # Imported after the flags are read: a mistyped flag is answered at once.
    from vits_jax.training.timeline import Timeline

    timeline = Timeline.of_process() if own_process else Timeline()
    from vits_jax.compilation import use_cache
    from vits_jax.training.loop import train

    if own_process:
        gc.freeze()
        gc.enable()
    timeline.done("imports")
    use_cache()
    timeline.done("cache")
    return train(config, given, timeline).exit_code


def configure(argv: Sequence[str]) -> Config:
    """Flags → configuration: ``--quality`` or ``--config``, and every other flag on top.

    Raises:
        UserError: an unknown flag, a value of the wrong type, an impossible value.
    """
    return of_flags(vars(make_parser().parse(argv)))[0]


def of_flags(given: dict[str, Any]) -> tuple[Config, frozenset[str]]:
    """The configuration, and what of it the user asked for: flags, and keys of ``--config``.

    Args:
        given: what `make_parser`'s parser read.

    Raises:
        UserError: a value of the wrong type, an impossible value.
    """
    given = dict(given)
    quality, path = given.pop("quality", None), given.pop("config", None)
    if quality is not None and path is not None:
        raise UserError(f"--quality {quality} and --config {path}: expected one of the two")
    own_file = path is not None
    path = preset_path(quality or DEFAULT_QUALITY) if path is None else Path(path)

    values = read_yaml(path)
    asked = frozenset(given) | (frozenset(values) if own_file else frozenset())
    for name, other in (("batch_size", "batch_frames"), ("batch_frames", "batch_size")):
        if name in given:  # it takes the place of the file's
            values.pop(other, None)
    config = Config()
    for name, value in values.items():
        config = _put(config, name, value, f"{path}: {name}")
    for name, value in given.items():
        config = _put(config, name, value, f"--{name.replace('_', '-')}")

    if config.data.dataset_dir is None:
        raise UserError("--dataset-dir is missing: the directory that preprocess wrote")
    check_batch(config.data)
    check(config)
    return config, asked


def _put(config: Config, name: str, value: Any, where: str) -> Config:
    if name in foreign_flags.OTHERS:
        foreign_flags.refuse(name, value, where)
        return config
    if name not in FIELDS or name in NO_FLAGS:
        raise UserError(f"{where}: {foreign_flags.unknown(f'--{name}', _ours())}")
    if name == "devices" and str(value) == "-1":
        value = "auto"  # Lightning's other word for it
    return config.replaced({name: convert(value, FIELDS[name].type, where)})


def _ours() -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in FIELDS if name not in NO_FLAGS]


class _TrainParser(Parser):
    def complaint(self, word: str) -> str:
        return foreign_flags.unknown(word, self.flags())


def make_parser(
    prog: str = "train", description: str = "Train a voice on a directory that preprocess wrote."
) -> Parser:
    """Of all flags of a run; only those that were given are in what it reads."""
    parser = _TrainParser(prog, description)
    parser.add_argument(
        "--quality",
        default=argparse.SUPPRESS,
        help=f"preset: {', '.join(preset_names())} (default: {DEFAULT_QUALITY})",
    )
    parser.add_argument(
        "--config", default=argparse.SUPPRESS, metavar="FILE", help="YAML file instead of a preset"
    )
    groups = {section: parser.add_argument_group(section) for section in _sections()}
    for name, flag in FIELDS.items():
        if name not in NO_FLAGS:
            groups[flag.section].add_argument(
                f"--{name.replace('_', '-')}",
                default=argparse.SUPPRESS,  # so that only what was given is laid over the preset
                metavar=describe(flag.type).upper(),
                help=_help(flag),
                **_bare(flag),
            )
    foreign_flags.add_others(parser, foreign_flags.OTHERS)
    return parser


def _sections() -> list[str]:
    return list(dict.fromkeys(flag.section for flag in FIELDS.values()))


def _bare(flag: Field) -> dict[str, Any]:
    """`--use-sdp` alone means true, `--fast_dev_run` alone means one batch, as in Lightning."""
    if flag.type is bool:
        return {"nargs": "?", "const": "true"}
    return {"nargs": "?", "const": "1"} if flag.name == "fast_dev_run" else {}


def _help(flag: Field) -> str:
    text = flag.help.replace("%", "%%")
    if flag.default is None or "default" in text:
        return text
    return f"{text} (default: {flag.default})"
