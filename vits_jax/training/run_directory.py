"""The run's directory: made, locked, and gone again if bad input ended the run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from vits_jax.config import Config
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)

LOCK = ".lock"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def run_directory(config: Config) -> Iterator[Path | None]:
    """The directory of this run, ours alone while the context lasts; None in a fast_dev_run.

    Raises:
        UserError: it cannot be made, or another process trains in it.
    """
    run = config.run
    if run.fast_dev_run:
        _LOGGER.info("fast_dev_run: nothing is saved")
        yield None
        return
    root = Path(run.default_root_dir or str(config.data.dataset_dir)) / "runs"
    run_dir = _next_version(root) if run.run_dir is None else Path(run.run_dir)
    made = [d for d in (run_dir, *run_dir.parents) if not d.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=run.run_dir is not None)
    except OSError as error:
        raise UserError(f"--run-dir {run_dir}: cannot be made: {error.strerror}") from error
    _LOGGER.info("run directory: %s", run_dir)
    with lock(run_dir):
        try:
            yield run_dir
        except UserError:
            if run_dir in made:
                (run_dir / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # one is not empty: leave it, and those above it
                for directory in made:
                    directory.rmdir()
            raise


def _next_version(runs: Path) -> Path:
    versions = [int(d.name[8:]) for d in runs.glob("version_*") if d.name[8:].isdecimal()]
    return runs / f"version_{max(versions, default=-1) + 1}"


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
