"""Files that grow by whole records while a run trains, whatever their disk does."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

_LOGGER = logging.getLogger(__name__)


class Appended:
    """A file that records are appended to at once; what cannot be written is dropped.

    The file ends with the last whole record, and goes on when the disk does: no disk can stop or
    block a run.

    Args:
        directory: it lies there.
        name: gives its name, when it is opened.
        what: the records, for people.
        head: what a new file begins with.
    """

    def __init__(
        self,
        directory: Path,
        name: Callable[[], str],
        what: str,
        head: Callable[[], bytes] = lambda: b"",
    ):
        self._directory, self._name, self._what, self._head = directory, name, what, head
        self._file: int | None = None
        self._path = directory
        self._size = 0  # of the file, in whole records
        self._lost = 0  # since the disk last took one

    def add(self, records: Sequence[bytes]) -> None:
        """Append them."""
        if not records:
            return
        try:
            if self._file is None:
                self._open()
            assert self._file is not None
            _write(self._file, b"".join([self._head() if self._size == 0 else b"", *records]))
            self._size = os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            self._drop(len(records), error)
            return
        if self._lost:
            _LOGGER.warning(
                "%s: %s are written again; %d were lost", self._path, self._what, self._lost
            )
            self._lost = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file = None

    def _open(self) -> None:
        self._path = self._directory / self._name()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._size = os.lseek(self._file, 0, os.SEEK_END)

    def _drop(self, count: int, error: OSError) -> None:
        if not self._lost:
            _LOGGER.warning(
                "%s: %s cannot be written (%s): training goes on without them until they can",
                *(self._path if self._file is not None else self._directory, self._what),
                error.strerror,
            )
        self._lost += count
        if self._file is not None:
            try:
                os.ftruncate(self._file, self._size)  # not half of a record
            except OSError:
                self.close()


def _write(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]
