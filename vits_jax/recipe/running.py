"""A step's command in a process of its own, which Ctrl-C and SIGTERM reach once, from here."""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from vits_jax.errors import RunFailed

_LOGGER = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "vits_jax.commands")
"""``vits-jax``, whether or not there is a script of that name on the path."""
_TICK = 20.0  # seconds between two looks at the clock
# A terminal that is closed asks as politely as a service manager does.
_PASSED_ON = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}


def shown(words: Sequence[str], output: Path | None = None) -> str:
    """The command line that a user would type."""
    redirected = "" if output is None else f" > {shlex.quote(str(output))}"
    return shlex.join(["vits-jax", *words]) + redirected


class Commands:
    """Runs them, one at a time.

    Attributes:
        asked: the signal that asked to stop; None: none did.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._told = False

    @contextlib.contextmanager
    def heeding(self) -> Iterator[Commands]:
        """Inside, signals go to the command that runs, and no other is begun after it."""
        before = {number: signal.getsignal(number) for number in _PASSED_ON}
        for number in _PASSED_ON:
            signal.signal(number, self._ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        child = self._child
        if child is not None and child.poll() is None:
            self._told = True
            child.send_signal(_PASSED_ON[signal.Signals(number)])

    def run(
        self, words: Sequence[str], output: Path | None, tick: Callable[[float], None]
    ) -> tuple[int, float]:
        """Run ``vits-jax WORDS``.

        Args:
            words: the command and its arguments.
            output: the file that its standard output goes to, whole or not at all.
            tick: is told now and then how many seconds it has run.

        Returns:
            Its exit code, 128 and the number after a signal, and the seconds it took.

        Raises:
            RunFailed: it cannot be started.
        """
        began, self._told = time.monotonic(), False
        unfinished = None if output is None else output.with_name(f".{output.name}.new")
        with contextlib.ExitStack() as stack:
            stdout = None
            if unfinished is not None:
                unfinished.parent.mkdir(parents=True, exist_ok=True)
                stdout = stack.enter_context(unfinished.open("wb"))
                stack.callback(unfinished.unlink, missing_ok=True)
            try:
                # A group of its own: Ctrl-C in a terminal would reach it twice, from there and
                # from here, and the second one ends a run without saving.
                self._child = subprocess.Popen(
                    [*PROGRAM, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    process_group=0,
                )
            except OSError as error:
                raise RunFailed(f"{shown(words)}: cannot be started: {error}") from error
            if self.asked is not None and not self._told:  # while it was being started
                self._child.send_signal(_PASSED_ON[signal.Signals(self.asked)])
            code = self._wait(began, tick)
            if code == 0 and unfinished is not None and output is not None:
                unfinished.replace(output)
        self._child = None
        return code, time.monotonic() - began

    def _wait(self, began: float, tick: Callable[[float], None]) -> int:
        assert self._child is not None
        while True:
            try:
                code = self._child.wait(_TICK)
            except subprocess.TimeoutExpired:
                tick(time.monotonic() - began)
                continue
            return code if code >= 0 else 128 - code
