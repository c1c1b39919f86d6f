"""A store while it grows: records go into its files as they come, and a killed run goes on.

    .audio-<fingerprint>.<fingerprint of the settings>.unfinished/
      lock             held by the process that writes
      store/           what becomes the store: complete files of records, and one that is not
      parts/<n>.json   for each complete file: its recordings, in order, and what became of
                       them; sealed. A file without its part is written again.

Of a run that is killed the recordings of one file are lost (`shards.SHARD_BYTES`), of one that
is interrupted none.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax import sealed
from vits_jax.data.corpora.audio_files import Recording
from vits_jax.data.storage import shards
from vits_jax.data.storage import store as stores
from vits_jax.data.storage.lock import alone
from vits_jax.data.unusable import Refused
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


def build(
    target: Path,
    sample_rate: int,
    recordings: Callable[[int], Iterator[Recording | Refused]],
    settings: str,
    digests: Sequence[bytes] = (),
    workplace: Path | None = None,
) -> list[stores.Outcome]:
    """Write a store, whole or not at all; go on where the last run was stopped.

    One process writes, others wait for it.

    Args:
        target: where the store shall be; see `store.store_path`.
        sample_rate: of the recordings, hertz.
        recordings: gives the recordings from a number on, in order, or why there is none.
        settings: fingerprint of the settings alone.
        digests: SHA-256 of each recording, so that a later store can take it from this one.
        workplace: the directory that the store grows in (default: the one it shall be in).

    Returns:
        What became of each recording. Where none could be used, there is no store.

    Raises:
        RunFailed: the disk is full, or the like.
    """
    with _held(workplace or target.parent, target.name, settings) as directory:
        if stores.is_whole(target):  # since another process had the lock
            _remove(directory)
            return stores.open_store(target).outcomes
        growing = _Growing(directory, digests)
        keep = True
        try:
            for result in recordings(len(growing.outcomes)):
                growing.add(result)
        except UserError:  # the recordings have to change, and with them the store's name
            keep = False
            raise
        finally:
            if keep:
                growing.close()
            if not keep or not growing.outcomes:
                _remove(directory)
        if growing.samples:
            growing.finish(target, sample_rate, settings)
        _remove(directory)
        return growing.outcomes


@contextlib.contextmanager
def earlier(workplace: Path, stores_in: Path, settings: str) -> Iterator[dict[bytes, Earlier]]:
    """Recordings that were prepared with the same settings before, by their SHA-256.

    They are in the stores of a directory and in those that did not become whole, which
    are locked meanwhile.
    """
    found: dict[bytes, Earlier] = {}
    with contextlib.ExitStack() as locks:
        for directory in _unfinished(workplace, settings):
            if locks.enter_context(alone(directory / _LOCK, wait=False)):
                growing = _Growing(directory)
                found |= _by_digest(growing.open(), growing.digests)
        for path in stores.stores_in(stores_in):
            try:
                store = stores.open_store(path)
            except UserError:
                continue  # damaged: as good as absent
            if store.settings == settings:
                found |= _by_digest(store, list(map(bytes, store.digests)))
        yield found


class Earlier:
    """A recording in a store: `get` gives it."""

    __slots__ = ("_outcome", "_store")

    def __init__(self, store: stores.Store, outcome: stores.Outcome) -> None:
        self._store, self._outcome = store, outcome

    def get(self) -> Recording | Refused:
        """The recording, or why there is none.

        Raises:
            UserError: it is damaged.
        """
        if isinstance(self._outcome, Refused):
            return self._outcome
        return Recording(self._store.audio(self._outcome), *self._store.facts[self._outcome].item())


def _by_digest(store: stores.Store, digests: list[bytes]) -> dict[bytes, Earlier]:
    return {d: Earlier(store, outcome) for d, outcome in zip(digests, store.outcomes)}


def remove_unfinished(workplace: Path, settings: str) -> None:
    """Remove what stopped runs with these settings left, unless one is at it again."""
    for directory in _unfinished(workplace, settings):
        with alone(directory / _LOCK, wait=False) as ours:
            if ours:
                _remove(directory)
    # Where the first releases kept recordings until all were there.
    shutil.rmtree(workplace / f".clips-{settings}", ignore_errors=True)


_LOCK = "lock"


def _remove(directory: Path) -> None:
    # Another process that waits for the lock may just be making the directory anew.
    shutil.rmtree(directory, ignore_errors=True)


def _unfinished(workplace: Path, settings: str) -> list[Path]:
    return sorted(workplace.glob(f".audio-*.{settings}.unfinished"))


@contextlib.contextmanager
def _held(workplace: Path, name: str, settings: str) -> Iterator[Path]:
    """The directory in which a store grows, this process's alone."""
    directory = workplace / f".{name}.{settings}.unfinished"
    stores.remove_abandoned(workplace)
    with alone(directory / _LOCK) as held:
        if not held:  # nothing to go on with, but nobody else's either
            with contextlib.suppress(OSError):
                directory.rmdir()
            directory = directory.with_name(
                f"{directory.name}.{socket.gethostname()}.{os.getpid()}"
            )
            directory.mkdir(parents=True, exist_ok=True)
        yield directory


class _Growing:
    """The recordings of a store so far: those of its complete files, and those that come.

    Attributes:
        outcomes, samples, facts: of the complete files; see `store.Store`.
        digests: of the recordings, as far as the files' parts tell them.
    """

    def __init__(self, directory: Path, digests: Sequence[bytes] = ()) -> None:
        self.outcomes: list[stores.Outcome] = []
        self.samples: list[int] = []
        self.facts: list[tuple[Any, ...]] = []
        self.digests: list[bytes] = []
        self._all_digests = digests
        self._store, self._parts = directory / "store", directory / "parts"
        self._lengths: list[int] = []
        self._num_bytes = 0
        self._shard: shards.Shard | None = None
        self._coming: list[list[Any]] = []
        self._closing = False
        self._num_parts = 0
        for number in itertools.count():
            part = self._read(number)
            if part is None:
                break
            self._take(part)
        for path in self._parts.glob("*.json"):  # beyond a damaged one
            if int(path.stem) >= self._num_parts:
                path.unlink()
        shards.remove_shards(self._store, beyond=len(self._lengths))

    def add(self, result: Recording | Refused) -> None:
        """Append a recording; its file is complete when it is large enough, or closed."""
        if isinstance(result, Refused):
            self._coming.append([result.kind, result.reason])
            return
        if self._shard is None:
            self._shard = shards.Shard(shards.shard_path(self._store, len(self._lengths)))
        # In this order: a record that nobody knows of, as a signal may leave, does no harm.
        self._shard.add(result.samples)
        self._coming.append([len(result.samples), *result[1:]])
        if self._shard.num_bytes >= shards.SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Complete the file that is being written, so that its recordings are there for good."""
        if self._closing or not self._coming:
            return
        # Interrupted on the way, or on a full disk, the file has no part: as good as absent.
        self._closing = True
        first = len(self.outcomes)
        digests = self._all_digests[first : first + len(self._coming)]
        part = {
            "digests": [digest.hex() for digest in digests],
            "recordings": self._coming,
            "shard_bytes": 0,
            "num_bytes": 0,
        }
        if self._shard is not None:
            self._shard.close()
            part |= {
                "shard_bytes": self._shard.path.stat().st_size,
                "num_bytes": self._shard.num_bytes,
            }
        path = self._part(self._num_parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(sealed.seal(part), encoding="utf-8")
        temporary.replace(path)
        self._take(part)
        self._shard, self._coming, self._closing = None, [], False

    def finish(self, target: Path, sample_rate: int, settings: str) -> None:
        """Give the store its name."""
        shards.write_metadata(self._store, self._lengths, self._num_bytes)
        stores.finish(
            self._store, target, sample_rate, self.outcomes, self.samples, self.facts, settings,
            self._all_digests,
        )  # fmt: skip

    def open(self) -> stores.Store:
        """The complete files as a store to read from."""
        if self._lengths:
            shards.write_metadata(self._store, self._lengths, self._num_bytes)
        return stores.Store(
            directory=self._store,
            sample_rate=0,
            samples=np.array(self.samples, np.int32),
            facts=np.array(self.facts, stores.FACTS),
            outcomes=self.outcomes,
            settings="",
            digests=stores.NO_DIGESTS,
        )

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:05d}.json"

    def _read(self, number: int) -> dict[str, Any] | None:
        """A part whose file is there too."""
        try:
            part = sealed.unseal(self._part(number).read_text(encoding="utf-8"))
            shard = shards.shard_path(self._store, len(self._lengths))
            if part["shard_bytes"] and shard.stat().st_size != part["shard_bytes"]:
                return None
        except (OSError, ValueError):
            return None
        return part

    def _take(self, part: dict[str, Any]) -> None:
        before = len(self.samples)
        for recording in part["recordings"]:
            if len(recording) == 2:
                self.outcomes.append(Refused(*recording))
            else:
                self.outcomes.append(len(self.samples))
                self.samples.append(recording[0])
                self.facts.append(tuple(recording[1:]))
        self.digests += map(bytes.fromhex, part["digests"])
        if part["shard_bytes"]:
            self._lengths.append(len(self.samples) - before)
            self._num_bytes += part["num_bytes"]
        self._num_parts += 1
