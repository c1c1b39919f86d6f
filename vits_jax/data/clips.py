"""Recordings that are prepared already: by a run that did not end, or in an older store.

While `preprocess` works, what is done waits in pieces of some recordings each,

    .clips-<fingerprint of the settings>/
      <hash>.npz    digests, facts, samples; why recordings were refused

found again by the SHA-256 of the recording's file. A piece appears whole, by renaming a
finished file. When the store is written, the pieces go.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from vits_jax.data import store as stores
from vits_jax.data.audio_files import Recording
from vits_jax.data.refused import Refused
from vits_jax.errors import RunFailed, UserError

_LOGGER = logging.getLogger(__name__)

PIECE = 64  # recordings: what a killed run loses at most

Result = Recording | Refused


class Clips:
    """Prepared recordings by the digest of their file.

    Args:
      parent: the directory that pieces are kept in, and one with stores; or each its own.
      mark: fingerprint of the settings that recordings were prepared with.
      stores_in: a directory whose stores of the same settings are looked at too.
    """

    def __init__(self, parent: Path, mark: str, stores_in: Path) -> None:
        self.directory = parent / f".clips-{mark}"
        self._pieces: dict[bytes, tuple[Path, int]] = {}
        self._stored: dict[bytes, tuple[stores.Store, int | Refused]] = {}
        self._waiting: list[tuple[bytes, Result]] = []
        self._read = functools.lru_cache(maxsize=2)(_read_piece)
        for path in sorted(self.directory.glob("*.npz")):
            self._know(path)
        for path in stores.stores_in(stores_in):
            try:
                store = stores.open_store(path)
            except UserError:
                continue  # damaged: as good as absent
            if store.settings == mark:
                known = zip(map(bytes, store.digests), store.outcomes)
                self._stored |= {digest: (store, outcome) for digest, outcome in known}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._pieces or digest in self._stored

    def add(self, digest: bytes, result: Result) -> None:
        """Keep a result; it is safe once its piece is full, or after `flush`."""
        self._waiting.append((digest, result))
        if len(self._waiting) >= PIECE:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a piece."""
        if not self._waiting:
            return
        digests = [digest for digest, _ in self._waiting]
        done = [r for _, r in self._waiting if isinstance(r, Recording)]
        reasons = [[r.kind, r.reason] if isinstance(r, Refused) else None for _, r in self._waiting]
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{hashlib.sha256(b''.join(digests)).hexdigest()[:16]}.npz"
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    digests=np.frombuffer(b"".join(digests), stores.DIGEST),
                    reasons=np.array(json.dumps(reasons)),
                    lengths=np.array([len(r.samples) for r in done], np.int64),
                    facts=np.array([tuple(r)[1:] for r in done], stores.FACTS),
                    samples=np.concatenate([np.zeros(0, np.int16), *(r.samples for r in done)]),
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._waiting.clear()
        self._pieces |= {digest: (path, i) for i, digest in enumerate(digests)}

    def get(self, digest: bytes) -> Result:
        """A result that is there.

        Raises:
          RunFailed: what was kept is damaged.
        """
        if digest in self._pieces:
            path, index = self._pieces[digest]
            try:
                return self._read(path)[index]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                path.unlink(missing_ok=True)
                raise RunFailed(f"{path} was damaged and is removed: run it again") from error
        store, outcome = self._stored[digest]
        if isinstance(outcome, Refused):
            return outcome
        return Recording(store.audio(outcome), *store.facts[outcome].item())

    def remove(self) -> None:
        """Remove the pieces: a store holds them now, or nobody wants them."""
        self._pieces.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _know(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as piece:
                digests = piece["digests"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            _LOGGER.info("removed damaged %s", path)
            path.unlink(missing_ok=True)
            return
        self._pieces |= {bytes(digest): (path, i) for i, digest in enumerate(digests)}


def _read_piece(path: Path) -> list[Result]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as piece:
        reasons = json.loads(str(piece["reasons"]))
        facts, samples = piece["facts"], piece["samples"]
        ends = np.cumsum(piece["lengths"])[:-1]
    done = zip(np.split(samples, ends), facts)
    results: list[Result] = []
    for reason in reasons:
        if reason is not None:
            results.append(Refused(*reason))
        else:
            audio, fact = next(done)
            results.append(Recording(audio, *fact.item()))
    return results
