"""Checkpoints in an object store: which are whole, and how they come here.

A step lies there as it lies on a disk (`store`); its digests went there last, so it is whole where
they are. What comes here is held against them.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vits_jax.buckets import Bucket, errors, open_bucket, reason
from vits_jax.checkpoints import digests
from vits_jax.checkpoints.digests import Damaged
from vits_jax.checkpoints.store import DIRECTORY
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


def place_of(url: str, use: str) -> Path:
    """Where on this machine what lies at `url` is kept, for one use of it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "vits_jax" / use / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def steps_in(names: Iterable[str]) -> set[str]:
    """The whole steps among the files of a run."""
    parts = [PurePosixPath(name).parts for name in names]
    return {
        step
        for directory, step, file in (p for p in parts if len(p) == 3)
        if (directory, file) == (DIRECTORY, digests.NAME) and step.isdecimal()
    }


def pull(bucket: Bucket, run_dir: Path, *, newest: bool = False) -> None:
    """Bring the steps of a run that are not here, those that are what was saved.

    Args:
        bucket: the run.
        run_dir: its directory here.
        newest: bring one, the newest that is whole.

    Raises:
        UserError: the store cannot be read.
    """
    try:
        names = bucket.files()
        for step in sorted(steps_in(names), key=int, reverse=True):
            target = run_dir / DIRECTORY / step
            here = target.exists() or _brought(bucket, names, step, target)
            if here and newest:
                return
    except errors() as error:
        raise unreadable(bucket, error) from error


def _brought(bucket: Bucket, names: Iterable[str], step: str, target: Path) -> bool:
    prefix = f"{DIRECTORY}/{step}/"
    passing = target.with_name(f"{step}.pulled.unfinished")
    for name in names:
        if name.startswith(prefix):
            bucket.download(name, passing / name.removeprefix(prefix))
    try:
        digests.check(passing)
    except Damaged as error:
        _LOGGER.warning("%s: step %s is left there: %s", bucket.url, step, error)
        return False
    passing.rename(target)
    return True


def fetched(url: str) -> Path:
    """A directory of this machine with the newest whole step of a run in an object store.

    Raises:
        UserError: the store cannot be read.
    """
    local = place_of(url, "checkpoints")
    pull(open_bucket(url, "checkpoint"), local, newest=True)
    return local


def unreadable(bucket: Bucket, error: BaseException) -> UserError:
    """What to say of a store that cannot be read."""
    return UserError(f"{bucket.url}: cannot be read: {reason(error)}")
