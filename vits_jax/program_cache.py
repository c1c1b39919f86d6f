"""Digests of the compiled programs that JAX keeps between runs.

JAX runs what it finds in its cache. Where zstandard is installed, it keeps no checksum: one
flipped bit can end the process with SIGILL, or compute something else. Each program gets
its SHA-256 beside it; one that differs, or that a killed process has not finished, is
removed, and compiled again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from vits_jax.sealed import file_digest

_LOGGER = logging.getLogger(__name__)

WRITTEN_IN = 30  # seconds that JAX takes at most to write one
_PROGRAMS, _DIGEST = "*-cache", ".sha256"


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
                if digest.read_text(encoding="ascii", errors="replace") == file_digest(program):
                    continue
                _LOGGER.warning("%s: damaged: it is removed and compiled again", program)
            elif not ours:
                continue
            program.unlink()
            digest.unlink(missing_ok=True)


def seal(directory: Path, settled: bool = True) -> None:
    """Put digests beside the programs that have none; JAX may have dropped some that had.

    Args:
        directory: JAX's cache.
        settled: whether none is being written; else those that are younger than
            `WRITTEN_IN` seconds are left for another time.
    """
    for digest in directory.glob(_PROGRAMS + _DIGEST):
        if not digest.with_name(digest.name.removesuffix(_DIGEST)).exists():
            digest.unlink(missing_ok=True)
    for program in directory.glob(_PROGRAMS):
        digest = program.with_name(program.name + _DIGEST)
        with contextlib.suppress(OSError):
            old = settled or time.time() - program.stat().st_mtime > WRITTEN_IN
            if old and not digest.exists():
                digest.write_text(file_digest(program), encoding="ascii")
