"""A stderr that no reader can hold up.

A pipe that nobody empties, or a terminal that somebody stopped with Ctrl-S, blocks whoever
writes to it: days of training would stand still for a line of progress. Here a thread
writes; what finds no reader is dropped, and counted.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import sys
import threading
from collections.abc import Iterator

_STDERR = 2
_WAITING = 10_000  # pieces of text that may wait for a reader
_PATIENCE = 5.0  # seconds without any progress, after which nobody reads


class Unblocked(io.TextIOBase):
    """A text stream to stderr whose writes wait a few seconds once, and not again."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._pieces: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._stuck = False
        self._dropped = 0  # lines, by `write`
        self._thread = threading.Thread(target=self._work, name="stderr", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Hand text to the thread, or drop it."""
        if not self._thread.is_alive():  # what logs at the very end of the process
            with contextlib.suppress(OSError):
                _write_all(text.encode(errors="replace"))
        elif not self._put(text):
            self._dropped += text.count("\n")
        return len(text)

    def fileno(self) -> int:
        return _STDERR

    def isatty(self) -> bool:
        return os.isatty(_STDERR)

    def patient(self) -> None:
        """Give who reads another chance, before the last words."""
        self._stuck = False

    def finish(self) -> None:
        """Wait until all is written, though not for ever."""
        if self._put(None):
            self._thread.join(_PATIENCE)

    def _put(self, piece: str | None) -> bool:
        try:
            self._pieces.put(piece, block=not self._stuck, timeout=_PATIENCE)
        except queue.Full:
            self._stuck = True
        else:
            self._stuck = False
        return not self._stuck

    def _work(self) -> None:
        failed = told = 0
        while (text := self._pieces.get()) is not None:
            dropped = self._dropped
            if lost := dropped + failed - told:
                text = f"({lost} lines were lost: nothing took them)\n{text}"
            try:
                _write_all(text.encode(errors="replace"))
            except OSError:  # a full disk, a reader that is gone
                failed += text.count("\n")
            else:
                told = dropped + failed


def _write_all(content: bytes) -> None:
    # Past Python's own stream: it has a lock that the end of the process would wait for.
    while content:
        content = content[os.write(_STDERR, content) :]


@contextlib.contextmanager
def unblocked_stderr() -> Iterator[Unblocked]:
    """Inside, ``sys.stderr`` blocks nobody: for what a whole process does."""
    before = sys.stderr
    stream = sys.stderr = Unblocked()
    try:
        yield stream
    finally:
        sys.stderr = before
        stream.finish()
