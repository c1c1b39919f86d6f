"""Checkpoints in an object store: which are whole, and how they come here.

A step lies there as it lies on a disk (`store`); its digests went there last, so it is whole where
they are. What comes here is held against them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vits_jax.buckets import Bucket, errors, open_bucket, reason
from vits_jax.checkpoints import digests
from vits_jax.checkpoints.digests import Damaged
from vits_jax.checkpoints.store import DIRECTORY, step_directories
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


def pull(bucket: Bucket, run_dir: Path, *, newest: bool = False) -> Path | None:
    """Bring the steps of a run that are not here as they are there, those that are whole.

    Args:
        bucket: the run.
        run_dir: its directory here.
        newest: have one here in the end, the newest that is whole.

    Returns:
        The newest of them; None if there is none.

    Raises:
        UserError: the store cannot be read.
    """
    found: Path | None = None
    try:
        names = bucket.files()
        for step in sorted(steps_in(names), key=int, reverse=True):
            target = run_dir / DIRECTORY / step
            if _same(bucket, step, target) or _brought(bucket, names, step, target):
                found = found or target
                if newest:
                    break
    except errors() as error:
        raise unreadable(bucket, error) from error
    if newest:
        for other in step_directories(run_dir / DIRECTORY):
            if other != found:
                shutil.rmtree(other, ignore_errors=True)
    return found


def _same(bucket: Bucket, step: str, target: Path) -> bool:
    """Whether what is here is what is there, and undamaged."""
    if not target.is_dir():
        return False
    try:
        digests.check(target)
    except Damaged:
        return False
    there = bucket.read(f"{DIRECTORY}/{step}/{digests.NAME}")
    return (target / digests.NAME).read_bytes() == there


def _brought(bucket: Bucket, names: Iterable[str], step: str, target: Path) -> bool:
    prefix = f"{DIRECTORY}/{step}/"
    passing = target.with_name(f"{step}.{os.getpid()}.pulled.unfinished")
    for name in names:
        if name.startswith(prefix):
            bucket.download(name, passing / name.removeprefix(prefix))
    try:
        digests.check(passing)
    except Damaged as error:
        _LOGGER.warning("%s: step %s is left there: %s", bucket.url, step, error)
        shutil.rmtree(passing)
        return False
    if target.is_dir():  # another one, or damaged
        shutil.rmtree(target)
    passing.rename(target)
    return True


def fetched(url: str) -> Path:
    """The newest whole step of a run in an object store, on this machine.

    Raises:
        UserError: the store cannot be read, or has none.
    """
    step = pull(open_bucket(url, "checkpoint"), place_of(url, "checkpoints"), newest=True)
    if step is None:
        raise UserError(f"{url}: no whole checkpoint in it: expected the directory of a run")
    return step


def unreadable(bucket: Bucket, error: BaseException) -> UserError:
    """What to say of a store that cannot be read."""
    return UserError(f"{bucket.url}: cannot be read: {reason(error)}")
