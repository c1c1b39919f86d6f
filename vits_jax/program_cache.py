"""Digests of the compiled programs that JAX keeps between runs.

JAX runs what it finds in its cache. Where zstandard is installed, it keeps no checksum: one
flipped bit can end the process with SIGILL, or compute something else. Each program gets
its SHA-256 beside it; one that differs, or that a killed process has not finished, is
removed, and compiled again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path

from vits_jax.sealed import file_digest

_LOGGER = logging.getLogger(__name__)

LIMIT = 2 << 30
"""Bytes of our own directory. All of it is read at each start, for its digests: this in two
seconds, some hundreds of programs."""
WRITTEN_IN = 30  # seconds that JAX takes at most to write one
_PROGRAMS, _DIGEST = "*-cache", ".sha256"
_USED = "-atime"  # in place of ``-cache``: where JAX prunes, 8 bytes that say when it was used


def remove_damaged(directory: Path, ours: bool) -> None:
    """Remove programs that are not what was kept.

    Args:
        directory: JAX's cache.
        ours: whether nothing else keeps programs there: then those without a digest go too.
    """
    for program in directory.glob(_PROGRAMS):
        with contextlib.suppress(OSError):  # another process was first, or none may write here
            digest = program.with_name(program.name + _DIGEST)
            if digest.exists():
                if digest.read_text(encoding="ascii", errors="replace") == _unused(program):
                    continue
                _LOGGER.warning("%s: damaged: it is removed and compiled again", program)
            elif not ours:
                continue
            _remove(program)


def prune(directory: Path, limit: int) -> int:
    """Remove programs until they take at most `limit` bytes, those first that were not used
    for the longest time (to the day: that is how often file systems note it).

    Returns:
        How many were removed.
    """
    found = []
    for program in directory.glob(_PROGRAMS):
        with contextlib.suppress(OSError):
            about = program.stat()
            found.append((max(about.st_atime_ns, about.st_mtime_ns), about.st_size, program))
    size, removed = sum(size for _, size, _ in found), 0
    for _, own, program in sorted(found):
        if size <= limit:
            break
        with contextlib.suppress(OSError):
            _remove(program)
            size, removed = size - own, removed + 1
    if removed:
        _LOGGER.info("%s: %d programs removed, to make room", directory, removed)
    return removed


def mark(directory: Path) -> None:
    """Where JAX prunes: the marks of when a program was used, where it would miss one.

    Without them it keeps nothing more: one program from before there was a limit is enough.
    """
    for program in directory.glob(_PROGRAMS):
        mark = program.with_name(program.name.removesuffix("-cache") + _USED)
        with contextlib.suppress(OSError):
            if not mark.exists():
                mark.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))


def size(directory: Path) -> int:
    """Bytes of all programs."""
    total = 0
    for program in directory.glob(_PROGRAMS):
        with contextlib.suppress(OSError):
            total += program.stat().st_size
    return total


def _remove(program: Path) -> None:
    program.unlink()
    program.with_name(program.name + _DIGEST).unlink(missing_ok=True)


def _unused(program: Path) -> str:
    """Its digest; that it was read for it does not count as use."""
    before = program.stat()
    digest = file_digest(program)
    if program.stat().st_atime_ns != before.st_atime_ns:
        os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
    return digest


def seal(directory: Path, settled: bool = True) -> None:
    """Put digests beside the programs that have none; JAX may have dropped some that had.

    Args:
        directory: JAX's cache.
        settled: whether none is being written; else those that are younger than
            `WRITTEN_IN` seconds are left for another time.
    """
    for digest in directory.glob(_PROGRAMS + _DIGEST):
        with contextlib.suppress(OSError):  # none may write here
            if not digest.with_name(digest.name.removesuffix(_DIGEST)).exists():
                digest.unlink(missing_ok=True)
    for program in directory.glob(_PROGRAMS):
        digest = program.with_name(program.name + _DIGEST)
        with contextlib.suppress(OSError):
            old = settled or time.time() - program.stat().st_mtime > WRITTEN_IN
            if old and not digest.exists():
                digest.write_text(file_digest(program), encoding="ascii")
