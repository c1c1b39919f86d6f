"""Ending a run early: SIGINT and SIGTERM, after the step at hand, with a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_LOGGER = logging.getLogger(__name__)


class Stop:
    """Which signal has asked the run to end, if one has."""

    signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether one has."""
        return self.signal is not None


@contextlib.contextmanager
def stop_signal() -> Iterator[Stop]:
    """SIGINT and SIGTERM end the run after the step at hand; a second one ends it at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread alone
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for known, handler in before.items():
            signal.signal(known, handler)
        _LOGGER.info("%s: saving after this step", signal.Signals(number).name)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
