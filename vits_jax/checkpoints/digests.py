"""Digests of a checkpoint's files: what is restored is what was saved, or it is named.

Orbax checks the index of its files and not the tensors in them: one flipped bit of a
weight would be trained on. Beside each step lies ``digests.json``, with SHA-256 of every
file of it and of itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vits_jax.errors import UserError
from vits_jax.sealed import file_digest, seal, unseal

NAME = "digests.json"


class Damaged(UserError):
    """A checkpoint is not what was saved."""


def write(directory: Path) -> None:
    """Put a digest beside every file of a directory, and all of it safely on the disk.

    A name that a crash leaves without its content is worth nothing: each file, each
    directory and the digests are there when this returns.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / NAME:
            files[path.relative_to(directory).as_posix()] = _synced(path)
    write_sealed(directory / NAME, files)
    for path in (directory, *directory.rglob("*")):
        if path.is_dir():
            sync_directory(path)


def check(directory: Path) -> None:
    """Compare every file with its digest.

    Raises:
        Damaged: names the first file that differs, is missing, or cannot be read.
    """
    files = read_sealed(directory / NAME)
    for name, digest in files.items():
        path = directory / name
        try:
            found = file_digest(path)
        except OSError as error:
            raise Damaged(f"{path}: cannot be read: {error.strerror}") from error
        if found != digest:
            raise Damaged(f"{path}: damaged: its content is not what was saved")


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON with a digest of their own, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.new")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(seal(values))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_sealed(path: Path) -> dict[str, Any]:
    """The reverse of `write_sealed`; `Damaged` if it is not what was written."""
    try:
        return unseal(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Damaged(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: damaged: its content is not what was saved") from error


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _synced(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_digest(path)
