"""``vits-jax completion SHELL``: what completes the commands and their flags at Tab.

    vits-jax completion bash > ~/.local/share/bash-completion/completions/vits-jax
    vits-jax completion zsh > ~/.zfunc/_vits-jax

The script knows the flags of the version that wrote it, so that Tab starts no Python.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import shtab

from vits_jax.cli import Parser, run
from vits_jax.presets import preset_names

SHELLS = ("bash", "zsh")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    from vits_jax.commands.__main__ import COMMANDS  # which imports this module by its name

    print(shtab.complete(of_all(COMMANDS), flags.shell))


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("completion", "Print the script by which a shell completes commands and flags.")
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads it")
    return parser


def of_all(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """One parser that has every command's flags, for what reads parsers."""
    everything = argparse.ArgumentParser("vits-jax")
    everything.add_argument("--version", action="store_true", help="say the version")
    kinds = everything.add_subparsers()
    for name, what in commands.items():
        own = importlib.import_module(f"vits_jax.commands.{name.replace('-', '_')}").make_parser()
        kinds.add_parser(name, parents=[own], help=what, add_help=False)
        _name_values(own)
    return everything


def _name_values(parser: argparse.ArgumentParser) -> None:
    """Say which values are files and directories, as the flags' help does."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for kind in action.choices.values():
                _name_values(kind)
        elif action.dest == "quality":
            action.choices = preset_names()
        elif action.metavar == "TRUE OR FALSE":
            action.choices = ("true", "false")
        elif action.choices is None and action.nargs != 0 and not _is_number(action):
            is_directory = action.metavar == "DIR" or action.dest.endswith("_dir")
            path: Any = shtab.DIRECTORY if is_directory else shtab.FILE
            action.complete = path  # type: ignore[attr-defined]


def _is_number(action: argparse.Action) -> bool:
    return action.type in (int, float) or "NUMBER" in str(action.metavar)
