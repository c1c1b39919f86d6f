"""``steps.json``: what was done for a voice, so that a second start does not do it again.

A step is done where its command is the same, what it read is the same, and what it made is still
there, by content: a file that was lost, cut off or changed has its step done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vits_jax import files
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)

NAME = "steps.json"
_VERSION = 1


@dataclass
class Done:
    """What is known of a step.

    Attributes:
        command: as the user could have typed it.
        reads, makes: digests.
        seconds: that it took, over all starts.
        code: its exit code; None: it did not end.
    """

    command: str = ""
    reads: str = ""
    makes: str = ""
    seconds: float = 0.0
    code: int | None = None


@dataclass
class Record:
    """Of one voice: `of` says which, `steps` what was done for it."""

    path: Path
    of: dict[str, str]
    steps: dict[str, Done] = field(default_factory=dict)

    def write(self) -> None:
        """Put it on the disk, whole or not at all."""
        steps = {name: asdict(done) for name, done in self.steps.items()}
        content = {"version": _VERSION, "of": self.of, "steps": steps}
        files.write({self.path: (json.dumps(content, indent=2) + "\n").encode()})


def read_record(out: Path, of: dict[str, str]) -> Record:
    """Of a directory, or an empty one.

    Args:
        out: the directory.
        of: what the voice is made of, by the flag that says it.

    Raises:
        UserError: the directory is another voice's.
    """
    path = out / NAME
    record = Record(path, of)
    if not path.is_file():
        return record
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before = {str(key): str(value) for key, value in content["of"].items()}
        record.steps = {name: Done(**done) for name, done in content["steps"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOGGER.warning("%s: cannot be read (%s): every step is looked at again", path, error)
        return record
    for key, value in of.items():
        if key in before and before[key] != value:
            raise UserError(
                f"{out} holds a voice with {key} {before[key]}, not {value}: name another --out"
            )
    return record


def digest(paths: Iterable[Path]) -> str:
    """Of the content of files and folders, hidden files left out; empty where one is missing."""
    whole = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            below = sorted(
                each
                for each in path.rglob("*")
                if each.is_file()
                and not any(part.startswith(".") for part in each.relative_to(path).parts)
            )
        elif path.is_file():
            below = [path]
        else:
            return ""
        for each in below:
            with each.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            whole.update(f"{each.relative_to(path.parent)}\0{found}\n".encode())
    return whole.hexdigest()


def stamp(paths: Iterable[Path]) -> str:
    """Of names, sizes and times of what is the user's: recordings may be many gigabytes."""
    whole = hashlib.sha256()
    for path in paths:
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        for each in below:
            if each.is_file():
                there = each.stat()
                whole.update(f"{each}\0{there.st_size}\0{there.st_mtime_ns}\n".encode())
    return whole.hexdigest()
