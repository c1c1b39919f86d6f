"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vits_jax.errors import UserError


def write(files: Mapping[Path, bytes]) -> None:
    """Write files, and make their directories; what was there before stays until all are written.

    Raises:
        UserError: one cannot be written (a full disk, no permission, a directory of that
            name); then none is changed, and nothing of them is left behind.
    """
    new: dict[Path, Path] = {}  # under a name of their own until all are complete
    made: list[Path] = []
    path = Path()
    try:
        for path, content in files.items():
            if path.is_dir():
                raise IsADirectoryError(0, "a directory has that name")
            made += _make_directory(path.parent)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
            new[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            new[path].chmod(0o666 & ~_umask())
        for path, complete in new.items():
            complete.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        for complete in new.values():
            complete.unlink(missing_ok=True)
        for directory in reversed(made):
            with contextlib.suppress(OSError):  # one that holds something now stays
                directory.rmdir()


def check_writable(directory: Path) -> None:
    """Raise `UserError` where files could not be written in `directory`, made if need be."""
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{directory}: cannot be written: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{directory}: cannot be written: no permission for {there}")


def _make_directory(directory: Path) -> list[Path]:
    """Make it with its parents; those that were not there, outermost first."""
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
