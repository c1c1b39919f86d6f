"""The run's directory: made, locked, and gone again if bad input ended the run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from vits_jax.buckets import errors, is_remote, open_bucket, reason
from vits_jax.checkpoints.remote import place_of, pull
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.training.mirror import mirrored
from vits_jax.training.processes import ALONE, Processes

_LOGGER = logging.getLogger(__name__)

LOCK = ".lock"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def run_directory(config: Config, processes: Processes = ALONE) -> Iterator[Path | None]:
    """The directory of this run, ours alone while the context lasts; None in a fast_dev_run.

    The first of several processes makes and holds it. Of a run in an object store it is the one
    that it is worked on in (`mirror`).

    Raises:
        UserError: it cannot be made, another run trains in it, or a process does not see it.
        RunFailed: an object store does not take all of it in the end.
    """
    if config.run.fast_dev_run:
        _LOGGER.info("fast_dev_run: nothing is saved")
        yield None
        return
    with contextlib.ExitStack() as held:
        local: list[Path] = []

        def make() -> str:
            where = _where(config)
            local.append(held.enter_context(_held(where)))
            return where

        where = processes.of_first(make)
        with processes.together():
            run_dir = local[0] if local else _seen(where, processes.index)
        yield run_dir


def _where(config: Config) -> str:
    """The directory that was named, or a new one."""
    run = config.run
    if run.run_dir is not None:
        return run.run_dir
    root = str(run.default_root_dir or config.data.dataset_dir).rstrip("/") + "/runs"
    if is_remote(root):
        bucket = open_bucket(root, "--default-root-dir")
        try:
            names = [name.partition("/")[0] for name in bucket.files()]
        except errors() as error:
            raise UserError(f"{root}: cannot be read: {reason(error)}") from error
    else:
        names = [path.name for path in Path(root).glob("version_*")]
    versions = [int(name[8:]) for name in names if _VERSION.fullmatch(name)]
    return f"{root}/version_{max(versions, default=-1) + 1}"


_VERSION = re.compile(r"version_\d+")


def _seen(where: str, index: int) -> Path:
    """By a process that did not make it."""
    if is_remote(where):
        bucket, local = open_bucket(where, "--run-dir"), place_of(where, f"runs/{index}")
        pull(bucket, local, newest=True)
        return local
    run_dir = Path(where)
    if not run_dir.is_dir():
        raise UserError(
            f"--run-dir {run_dir}: the first process made it and it is not here: expected "
            "a directory that all processes see"
        )
    return run_dir


@contextlib.contextmanager
def _held(where: str) -> Iterator[Path]:
    remote = is_remote(where)
    bucket = open_bucket(where, "--run-dir") if remote else None
    run_dir = place_of(where, "runs/0") if remote else Path(where)
    made = [d for d in (run_dir, *run_dir.parents) if not d.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--run-dir {run_dir}: cannot be made: {error.strerror}") from error
    _LOGGER.info("run directory: %s%s", where, f", worked on in {run_dir}" if remote else "")
    with lock(run_dir):
        try:
            if bucket is None:
                yield run_dir
            else:
                with mirrored(bucket, run_dir):
                    yield run_dir
        except UserError:
            if run_dir in made:
                (run_dir / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # one is not empty: leave it, and those above it
                for directory in made:
                    directory.rmdir()
            raise


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold the directory's lock, which the kernel takes back when the process ends, however.

    The lock is `flock`'s, which NFS has too. The file stays: removing it would leave two
    processes with a lock each.

    Raises:
        UserError: another process holds it (named, with its host and since when), or the
            directory cannot be written.
    """
    path = run_dir / LOCK
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(
            f"--run-dir {run_dir}: cannot be written: {error.strerror}: expected a directory "
            "that you may write in"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(file)
        os.close(file)
        raise UserError(
            f"--run-dir {run_dir}: {holder} trains in it: wait for it, stop it, or name another "
            "--run-dir"
        ) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            os.close(file)
            raise UserError(f"--run-dir {run_dir}: cannot be locked: {error.strerror}") from error
        _LOGGER.warning(
            "%s: no locks on this file system (%s): see to it that one process trains in it",
            *(run_dir, error.strerror),
        )
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds, without a name
            since = time.strftime("%Y-%m-%d %H:%M:%S %z")
            ours = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(ours).encode(), 0)
        yield
    finally:
        os.close(file)


def _holder(file: int) -> str:
    try:
        held = json.loads(os.pread(file, 4096, 0))
        return f"process {held['process']} on {held['host']}, since {held['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
