"""What every command shares: one way to spell flags, one way to fail.

A flag works with ``-`` or ``_``, with ``=`` or a space; no abbreviations. What the user
did wrong is a `UserError`: one line on stderr, exit code 2, no traceback.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from vits_jax.ending import any_at_work, end
from vits_jax.errors import RunFailed, UserError
from vits_jax.messages import unblocked_stderr

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def version() -> str:
    """Version of the installed package."""
    return importlib.metadata.version("vits_jax")


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` whose complaints are `UserError`s of one line.

    Declare flags with dashes (``--batch-size``); ``--batch_size`` then works too.

    Args:
        prog: the command's name.
        description: what it does, for ``--help``.
        prefix: what stands before the name, of what is no command of the package.
    """

    def __init__(self, prog: str, description: str, prefix: str | None = None) -> None:
        super().__init__(
            prog=_called(prog) if prefix is None else f"{prefix}{prog}",
            description=description,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"vits_jax {version()}")

    def complaint(self, word: str) -> str:
        """What to say to a word that is none of this parser's flags."""
        return unknown_flag(word.partition("=")[0], self.flags())

    def flags(self) -> list[str]:
        """All that ``--help`` lists."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [f for action in shown for f in action.option_strings if f[:2] == "--"]

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse, or raise `UserError`; an unknown flag is answered with the nearest one."""
        values, unknown = self.parse_known_args([dashed(word) for word in argv])
        if unknown:
            raise UserError(self.complaint(unknown[0]))
        return values

    def error(self, message: str) -> NoReturn:  # argparse's hook: it would print the usage too
        raise UserError(f"{message} (--help lists the flags)")


def _called(command: str) -> str:
    """How a command was started, or would be."""
    program = Path(sys.argv[0])
    if program.parent.name == "vits_jax":
        return f"python -m vits_jax.{program.stem}"
    if program.parent.name == "tools":
        return f"tools/{program.name}"
    return f"vits-jax {command.replace('_', '-')}"


def dashed(word: str) -> str:
    """``--batch_size=8`` → ``--batch-size=8``; values and other words stay as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def unknown_flag(flag: str, known: Iterable[str]) -> str:
    """The complaint about `flag`, with the nearest spelling where one is near."""
    if not flag.startswith("-"):
        return f"unexpected argument {flag!r}: every argument is a flag (--help lists them)"
    near = difflib.get_close_matches(dashed(flag), list(known), n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
    return f"unknown flag {flag}: {hint}"


def unknown_command(name: str, known: Iterable[str]) -> UserError:
    """The complaint about `name`, with the nearest spelling where one is near."""
    known = list(known)
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
    return UserError(f"unknown command {name}: {hint}")


def run(command: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, with what the user should read on stderr.

    Args:
        command: takes the arguments, returns an exit code (None: 0).
        argv: the arguments; default: the process's.
    """
    if argv is None:
        try:
            with unblocked_stderr() as stream:
                code, last_words = _run(command, sys.argv[1:], force=True)
                stream.patient()
                print(last_words, end="", file=sys.stderr)
        except Exception:
            if not any_at_work():
                raise
            traceback.print_exc()  # as Python would say it, which does not come to it
            code = EXIT_FAILED
        return end(code)
    before = sys.unraisablehook
    try:
        code, last_words = _run(command, argv, force=False)
    finally:
        sys.unraisablehook = before
    print(last_words, end="", file=sys.stderr)
    return code


def _run(
    command: Callable[[Sequence[str]], int | None], argv: Sequence[str], force: bool
) -> tuple[int, str]:
    """The exit code, and the line that says why it is not 0."""
    # By force: a library that logged while it was imported has a handler there already.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=force)
    # Orbax announces every save, and logs with a traceback what it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it lists the backends it did not find
    # Said at the end of the process, after a save that failed and that we have told of.
    warnings.filterwarnings("ignore", "coroutine 'async_serialize_from_host", RuntimeWarning)
    sys.unraisablehook = _without_closed_loops
    try:
        return command(argv) or EXIT_DONE, ""
    except UserError as error:
        return EXIT_USAGE, f"error: {error}\n"
    except (RunFailed, OSError) as error:  # a full disk ends here
        return EXIT_FAILED, f"failed: {error}\n"
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED, "interrupted\n"


def _without_closed_loops(unraisable: sys.UnraisableHookArgs) -> None:
    """After a save that failed, which is said in one line, Orbax's writers find their event loop
    closed: one traceback each, thousands where the disk is full."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
