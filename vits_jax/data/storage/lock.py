"""One process at a time, by a file that is locked."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock. What a killed process held is free.

    Args:
        path: a file of its own, gone in the end; its directory is made.
        wait: for the process that holds it.

    Yields:
        Whether the lock is held; not where the file system has no locks.
    """
    while True:
        file = _open(path)
        try:
            _lock(file, path, wait)
        except BlockingIOError:
            file.close()
            yield False
            return
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            _LOGGER.info("no locks in %s (%s): start nothing else there", path.parent, error)
            yield False
            return
        if _is(file, path):
            break
        file.close()  # who held it has removed it: another one holds now
    with file:
        try:
            with contextlib.suppress(OSError):  # a full disk: it is held all the same
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield True
        finally:
            path.unlink(missing_ok=True)  # while it is held, or another's would be removed


def _open(path: Path) -> IO[str]:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the directory was removed meanwhile
            return path.open("a+")


def _lock(file: IO[str], path: Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise
        file.seek(0)
        _LOGGER.info("waiting for %s, which works in %s", file.read() or "another", path.parent)
        fcntl.flock(file, fcntl.LOCK_EX)


def _is(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
