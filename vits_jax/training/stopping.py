"""Ending a run early: signals, the time, a host's maintenance; after the step at hand, saved.

Several processes stop before the same step: who is asked tells the others over the coordination
service, all say how far they are, and all go as far as the farthest.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

import jax

from vits_jax.config_checks import seconds_of
from vits_jax.training.processes import ALONE, Processes

_LOGGER = logging.getLogger(__name__)

LOOK = 0.2  # seconds between two looks whether another process was asked
_ANSWER = 60_000  # milliseconds until a process that lives has said how far it is


class Reason(NamedTuple):
    """Why a run ends before it is done: what for people, and its exit code."""

    what: str
    exit_code: int


def by_signal(number: int) -> Reason:
    """As the shell has it: 128 and the signal's number."""
    return Reason(signal.Signals(number).name, 128 + number)


class Stop:
    """Whether a run is to end, and where: before the same step on all its processes.

    Args:
        processes: of the run.

    Attributes:
        reason: why, once somebody has asked; the first reason counts.
    """

    def __init__(self, processes: Processes = ALONE):
        self.reason: Reason | None = None
        self._processes, self._lock = processes, threading.Lock()
        self._passed, self._last = 0, None if not processes.alone else 0
        self._told = False
        self._over = threading.Event()
        if not processes.alone:
            threading.Thread(target=self._listen, name="stopping", daemon=True).start()

    @property
    def asked(self) -> bool:
        """Whether somebody has, as far as this process knows."""
        return self.reason is not None

    @property
    def here(self) -> bool:
        """Whether this is where it ends: all processes ask before the same steps.

        Unlike `step`, asking does not say that one goes on.
        """
        if self._processes.alone:
            return self.asked
        with self._lock:
            return self._last is not None and self._passed >= self._last

    def step(self) -> bool:
        """Whether to take the next step; if so, all processes take it."""
        if self._processes.alone:
            return not self.asked
        with self._lock:
            if self._last is not None and self._passed >= self._last:
                return False
            self._passed += 1
            return True

    def ask(self, reason: Reason) -> None:
        """End the run, for this reason; may be called from a signal's handler."""
        if self.reason is None:
            self.reason = reason
            _LOGGER.info("%s: saving after this step", reason.what)

    def close(self) -> None:
        """Listen no more."""
        self._over.set()

    def _listen(self) -> None:
        """In a thread: tell the others, or hear of it; then find the last step of all."""
        client, ours = self._processes.client, self._processes.index
        while not self._over.wait(LOOK):
            try:
                if self.reason is not None:
                    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first
                        client.key_value_set(_ASKED, f"{self.reason.exit_code} {self.reason.what}")
                told = dict(client.key_value_dir_get(_STOP)).get(_ASKED)
            except jax.errors.JaxRuntimeError:  # `peers` will say what that means
                continue
            if told is not None:
                break
        else:
            return
        code, what = told.split(" ", 1)
        if self.reason is None:
            _LOGGER.info("%s: another process was asked to stop: saving after this step", what)
        self.reason = Reason(what, int(code))
        with self._lock:  # nobody goes on until it is known how far
            passed: list[int] | None = None
            while passed is None and not self._over.is_set():
                with contextlib.suppress(jax.errors.JaxRuntimeError):  # one is slow, or lost
                    client.key_value_set(
                        f"{_PASSED}{ours}", str(self._passed), allow_overwrite=True
                    )
                    passed = [
                        int(client.blocking_key_value_get(f"{_PASSED}{index}", _ANSWER))
                        for index in range(self._processes.count)
                    ]
            self._last = None if passed is None else max(passed)


_STOP = "vits_jax/stop/"
_ASKED, _PASSED = f"{_STOP}asked", f"{_STOP}passed/"


@contextlib.contextmanager
def stop_signal(processes: Processes = ALONE) -> Iterator[Stop]:
    """SIGINT and SIGTERM end the run after the step at hand; a second one ends it at once."""
    stop = Stop(processes)
    try:
        with _handled(stop):
            yield stop
    finally:
        stop.close()


@contextlib.contextmanager
def _handled(stop: Stop) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread alone
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.ask(by_signal(number))
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_after(max_time: str | None, stop: Stop) -> Iterator[None]:
    """Ask the run to end so long from now (``--max_time``); None: never."""
    seconds = None if max_time is None else seconds_of(max_time)
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, stop.ask, [Reason(f"--max_time {max_time}", 0)])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
