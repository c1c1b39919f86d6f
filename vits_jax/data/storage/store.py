"""The audio of a dataset: a TFDS dataset in ArrayRecord files, int16, the only copy.

A store is a directory ``audio-<fingerprint>`` in the dataset directory:

    audio-<fingerprint>/
      speech/1.0.0/   the TFDS dataset; a record is {"audio": int16 [samples]}
      samples.npy     int32 [records], the length of each record
      facts.npy       FACTS [records], what the files were like
      digests.npy     SHA-256 of each recording it was made from, where that is known
      index.json      which recordings were refused, and why; the size of every file, the
                      SHA-256 of those that are small; sealed

The fingerprint is a hash of everything that decides the samples, so a store made from
other recordings or with other settings has another name. A store appears whole, by
renaming a finished directory, or not at all; `building` makes it.

``audio_norm_path`` in ``dataset.jsonl`` names a record as ``audio-<fingerprint>#<number>``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import resource
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.json_format import ParseError

from vits_jax import sealed
from vits_jax.data.storage import shards
from vits_jax.data.unusable import Refused
from vits_jax.errors import UserError

FORMAT_VERSION = 2
FACTS = np.dtype([("rate", "<i4"), ("clipped", "<i4"), ("speech", "<f4")])
"""What `Recording` says beside the samples; its order."""
DIGEST = np.dtype("V32")
_INDEX = "index.json"
_UNSEALED = {"format_version", "sample_rate", "settings", "files", "outcomes"}
_OTHER_FILES = 512  # that a process may want to open beside a store's
NO_SAMPLES, NO_FACTS = np.zeros(0, np.int32), np.zeros(0, FACTS)
NO_DIGESTS = np.zeros(0, DIGEST)
_RECORD = re.compile(r"(audio-[0-9a-f]{16})#(\d{1,9})")


Outcome = int | Refused
"""What became of a recording: the number of its record, or why it has none."""


@dataclass(frozen=True)
class Store:
    """An open store: ``store.audio(3)`` reads record 3; safe to read from several threads.

    Attributes:
        directory: where it lies.
        sample_rate: hertz.
        samples: int32 ``[records]``, the length of each record.
        facts: `FACTS` ``[records]``.
        outcomes: of each recording that was given to `build`, in that order.
        settings: the fingerprint of the settings alone; empty where nobody said.
        digests: `DIGEST` of each recording, as far as they are known.
    """

    directory: Path
    sample_rate: int
    samples: np.ndarray
    facts: np.ndarray
    outcomes: list[Outcome]
    settings: str
    digests: np.ndarray

    def audio(self, record: int) -> np.ndarray:
        """int16 ``[samples]`` of a record.

        Raises:
            UserError: the record is damaged (ArrayRecord keeps a hash of each).
        """
        number = int(record)
        try:
            audio = self._records.source[number]["audio"]
        except _BAD_RECORD as error:
            raise self._damaged(number, _reason(error)) from error
        if len(audio) != self.samples[number]:
            raise self._damaged(number, f"{len(audio)} samples, expected {self.samples[number]}")
        return audio

    def _damaged(self, record: int, reason: str) -> UserError:
        ends = np.cumsum(self._records.lengths)
        file = self._records.files[int(np.searchsorted(ends, record, side="right"))]
        return UserError(
            f"{file}: record {record} of {self.directory} is damaged: {reason}: "
            "remove that directory and run preprocess again"
        )

    @functools.cached_property
    def _records(self) -> _Records:
        try:
            source, split = shards.open_records(self.directory)
            lengths = list(split.shard_lengths)
            if len(source) != len(self.samples):
                raise ValueError(f"{len(source)} records, expected {len(self.samples)}")
        except _BAD_METADATA as error:
            raise UserError(
                f"{self.directory / shards.PLACE} is damaged: {_reason(error)}: "
                f"remove {self.directory} and run preprocess again"
            ) from error
        _allow_open_files(len(lengths), self.directory)
        return _Records(source, lengths, [Path(path) for path in split.filepaths])


class _Records(NamedTuple):
    """What TFDS reads; how many records each file holds; the files."""

    source: Any
    lengths: list[int]
    files: list[Path]


# What array_record and TFDS raise for records, and TFDS for what describes them, that are not
# as they were written.
_BAD_RECORD = (RuntimeError, ValueError)
_BAD_METADATA = (ParseError, OSError, ValueError, ImportError)  # a type that TensorFlow may know


def fingerprint(settings: dict[str, Any], sources: Iterable[Any]) -> str:
    """16 hexadecimal digits that stand for settings and sources (both as JSON)."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, settings], sort_keys=True).encode())
    for source in sources:
        digest.update(json.dumps(source).encode() + b"\n")
    return digest.hexdigest()[:16]


def store_path(parent: Path, mark: str) -> Path:
    """Where the store of a fingerprint lies."""
    return parent / f"audio-{mark}"


def record_name(store: Store, record: int) -> str:
    """How ``audio_norm_path`` names a record."""
    return f"{store.directory.name}#{record}"


def parse_record_name(path: str) -> tuple[str, int] | None:
    """Name of the store and number of the record; None for the path of a file."""
    match = _RECORD.fullmatch(path)
    return (match[1], int(match[2])) if match else None


def finish(
    temporary: Path,
    target: Path,
    sample_rate: int,
    outcomes: Sequence[Outcome],
    samples: Sequence[int],
    facts: Sequence[tuple[Any, ...]],
    settings: str,
    digests: Sequence[bytes],
) -> None:
    """Write what is beside the records of a store, and give it its name.

    Args:
        temporary: where it is: its TFDS dataset, nothing else.
        target: where it shall be, on another file system perhaps.
        sample_rate, outcomes, samples, facts, settings, digests: see `Store`.
    """
    np.save(temporary / "samples.npy", np.asarray(samples, np.int32))
    np.save(temporary / "facts.npy", np.array(facts, FACTS))
    np.save(temporary / "digests.npy", np.frombuffer(b"".join(digests), DIGEST))
    files = {
        str(path.relative_to(temporary)): path
        for path in sorted(temporary.rglob("*"))
        if path.is_file() and path.name != _INDEX
    }
    index = {
        "format_version": FORMAT_VERSION,
        "sample_rate": sample_rate,
        "settings": settings,
        "files": {name: path.stat().st_size for name, path in files.items()},
        "digests": {
            name: sealed.file_digest(path)
            for name, path in files.items()
            if path.suffix in (".npy", ".json")  # ArrayRecord has hashes of its own
        },
        "outcomes": [o if isinstance(o, int) else [o.kind, o.reason] for o in outcomes],
    }
    (temporary / _INDEX).write_text(sealed.seal(index), encoding="utf-8")
    if is_whole(target):
        return  # another process was first: the same audio
    shutil.rmtree(target, ignore_errors=True)
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with building(target) as copy:
            for name in [*files, _INDEX]:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(temporary / name, copy / name)
            copy.rename(target)


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """A directory of this process alone beside `target`; gone in the end, unless renamed."""
    temporary = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}")
    remove_abandoned(target.parent)
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process that had our number
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_store(directory: Path) -> Store:
    """Open a store after looking at the size of every file, and the content of the small ones.

    Raises:
        UserError: missing, of another format, or damaged.
    """
    remedy = "run preprocess again (or remove it, where train packed it)"
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist: dataset.jsonl names audio in it; {remedy}")
    try:
        index = _read_index(directory / _INDEX)
        if index["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{directory} has format {index['format_version']!r}, "
                f"this version reads {FORMAT_VERSION}: {remedy}"
            )
        for name, size in index["files"].items():
            if (directory / name).stat().st_size != size:
                raise UserError(f"{directory / name} is damaged: it had {size} bytes; {remedy}")
        for name, digest in index.get("digests", {}).items():
            if sealed.file_digest(directory / name) != digest:
                raise UserError(f"{directory / name} is damaged: it had other bytes; {remedy}")
        outcomes = [o if isinstance(o, int) else Refused(*o) for o in index["outcomes"]]
        arrays = {name: np.load(directory / f"{name}.npy") for name in ("samples", "facts")}
        return Store(
            directory=directory,
            sample_rate=int(index["sample_rate"]),
            **arrays,
            outcomes=outcomes,
            settings=str(index["settings"]),
            digests=np.load(directory / "digests.npy"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory} is damaged: {_reason(error)}; {remedy}") from error


def _read_index(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    index = json.loads(text)
    # The first stores had no seal. One whose seal lost its name is none of those.
    if isinstance(index, dict) and not sealed.is_sealed(index) and set(index) == _UNSEALED:
        return index
    return sealed.unseal(text)


def _reason(error: Exception) -> str:
    """An exception's first line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def is_whole(directory: Path) -> bool:
    """Whether a store is there and undamaged."""
    try:
        open_store(directory)
    except UserError:
        return False
    return True


def stores_in(parent: Path) -> list[Path]:
    """Every store of a directory, whole or not."""
    return [
        path
        for path in sorted(parent.glob("audio-*"))
        if (path / _INDEX).is_file() and _RECORD.fullmatch(f"{path.name}#0")
    ]


def remove_others(keep: Path) -> list[Path]:
    """Remove every other store beside `keep`; returns what was removed."""
    others = [path for path in stores_in(keep.parent) if path != keep]
    for path in others:
        shutil.rmtree(path)
    return others


def remove_abandoned(parent: Path) -> None:
    """Remove what killed processes of this machine left half-written."""
    for path in parent.glob(f".audio-*.{socket.gethostname()}.*"):
        if path.suffix[1:].isdigit() and not _is_running(int(path.suffix[1:])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _allow_open_files(count: int, directory: Path) -> None:
    """Raise this process's limit so that all files of a large store may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return
    if needed > hard != resource.RLIM_INFINITY:
        raise UserError(
            f"{directory} has {count} files, and this process may open {hard}: "
            f"raise the limit (ulimit -Hn {needed})"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
