"""Lines for the user, on stderr, that no reader can hold up.

A pipe that nobody empties, or a terminal that somebody stopped with Ctrl-S, blocks whoever
writes to it: days of training would stand still for a line of progress. A thread writes
instead; what it cannot write is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import threading

_STDERR = 2
_WAITING = 10_000  # lines that may wait for a reader
_PATIENCE = 5.0  # seconds that the last lines may take when the process ends


class Messages(logging.Handler):
    """Handles log records, and lines of one's own, without ever blocking the caller."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._dropped = 0  # by the callers
        self._thread = threading.Thread(target=self._write, name="messages", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread, or drop it where too many wait."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def last(self, line: str) -> None:
        """Hand over how a command ends, which may wait a little for room."""
        try:
            self._lines.put(line, timeout=_PATIENCE)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Wait until all is written, though not for ever."""
        try:
            self._lines.put(None, timeout=_PATIENCE)
            self._thread.join(_PATIENCE)
        except queue.Full:
            pass  # nobody reads
        super().close()

    def _write(self) -> None:
        failed = told = 0
        while (line := self._lines.get()) is not None:
            dropped = self._dropped
            if lost := dropped + failed - told:
                line = f"({lost} lines were lost: nothing took them)\n{line}"
            try:
                _write_all(f"{line}\n".encode(errors="replace"))
            except OSError:  # a full disk, a reader that is gone
                failed += 1
            else:
                told = dropped + failed


def _write_all(content: bytes) -> None:
    # Past `sys.stderr`: Python would wait for its lock at the end of the process.
    while content:
        content = content[os.write(_STDERR, content) :]
