"""A run whose directory lies in an object store: worked on here, mirrored there.

A local directory holds all of it, and a thread brings there what is new, so that training waits
for no network. A checkpoint is in the store when its digests are, which go last; older ones are
removed there after they are here. What could not be brought stays here, and the same command
brings it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import psutil

from vits_jax.buckets import Bucket, errors, reason
from vits_jax.checkpoints import digests
from vits_jax.checkpoints.remote import pull, steps_in, unreadable
from vits_jax.checkpoints.store import DIRECTORY, METRICS, step_directories
from vits_jax.errors import RunFailed, UserError

_LOGGER = logging.getLogger(__name__)

LOOK = 2.0  # seconds between two looks for something new
GROWING = 60.0  # seconds between two uploads of a file that grows: events
PATIENCE = 600.0  # seconds that the end of a run waits for a store that does not answer
_SHORT = 30.0  # the same, after a failure
_LONGEST = 60.0  # seconds between two tries
LEASE, RENEWED = 90.0, 20.0  # seconds that a lock holds by itself, and between two renewals
_LOCK, _RUN = ".lock", ".run"
_SNAPSHOT = ".brought.unfinished"
_UNFINISHED = (".unfinished", ".orbax-checkpoint-tmp", ".new")

Look = tuple[int, int]  # bytes, time of the last change


class Mirror:
    """Brings what changes in a directory to an object store, in a thread.

    Raises:
        UserError: the store cannot be read.
    """

    def __init__(self, bucket: Bucket, local: Path):
        self._bucket, self._local, self._checkpoints = bucket, local, local / DIRECTORY
        try:
            there = steps_in(bucket.files())
        except errors() as error:
            raise unreadable(bucket, error) from error
        self._steps = {step.name for step in step_directories(self._checkpoints)} & there
        self._looks: dict[str, Look] = {}  # of other files, when they were brought
        self._over = threading.Event()
        self._failing = ""  # what the last try failed of
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._bring()  # what the last run left here: other processes begin with what is there
        self._thread.start()

    def close(self, patience: float) -> None:
        """Bring the rest.

        Args:
            patience: seconds to wait for a store that does not answer.

        Raises:
            RunFailed: the store does not take it.
        """
        self._over.set()
        self._thread.join()
        deadline, wait = time.monotonic() + patience, 1.0
        while not self._bring(ending=True):
            if time.monotonic() + wait > deadline:
                raise RunFailed(
                    f"{self._bucket.url} does not take the run: {self._failing}: it is kept in "
                    f"{self._local}; the same command, on this machine, brings it there"
                )
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST)

    def _work(self) -> None:
        wait = LOOK
        while not self._over.wait(wait):
            wait = LOOK if self._bring() else min(2 * wait, _LONGEST)

    def _bring(self, ending: bool = False) -> bool:
        """What is new; False after a failure, which is said once."""
        try:
            self._bring_steps()
            self._bring_files(ending)
            lacking = {step.name for step in step_directories(self._checkpoints)} - self._steps
            if ending and lacking:
                raise OSError(f"steps {', '.join(lacking)} are not there")
        except Exception as error:  # noqa: BLE001 - what a package raises: it is tried again
            if not self._failing:
                _LOGGER.warning(
                    "warning: %s cannot be written: %s; it is tried again",
                    *(self._bucket.url, reason(error)),
                )
            self._failing = reason(error)
            return False
        if self._failing:
            _LOGGER.info("%s can be written again", self._bucket.url)
        self._failing = ""
        return True

    def _bring_steps(self) -> None:
        """The newest first; then what is not here any more goes there too."""
        for step in reversed(step_directories(self._checkpoints)):
            if step.name not in self._steps:
                with _snapshot(step, self._local / _SNAPSHOT) as files:
                    for name, path in sorted(files.items(), key=_digests_last):
                        self._bucket.upload(path, f"{DIRECTORY}/{step.name}/{name}")
                    if digests.NAME in files:
                        self._steps.add(step.name)
        here = {step.name for step in step_directories(self._checkpoints)}
        for gone in self._steps - here:
            self._steps.discard(gone)
            if list(self._checkpoints.glob(f"{gone}.damaged*")):
                continue  # here, that is; there it is whole
            prefix = f"{DIRECTORY}/{gone}/"
            # Without digests it is no step any more.
            self._bucket.remove(f"{prefix}{digests.NAME}")
            for name in self._bucket.files():
                if name.startswith(prefix):
                    self._bucket.remove(name)

    def _bring_files(self, ending: bool) -> None:
        """All else: events, configuration, dumps, what is known of a step later."""
        walked = os.walk(self._local)  # which goes on where a directory goes meanwhile
        for path in (Path(directory, file) for directory, _, files in walked for file in files):
            name = path.relative_to(self._local).as_posix()
            in_steps = name.startswith(f"{DIRECTORY}/")
            if any(map(_passing, PurePosixPath(name).parts)) or (in_steps and path.name != METRICS):
                continue
            with contextlib.suppress(FileNotFoundError):  # gone since
                about = path.stat()
                look, before = (about.st_size, about.st_mtime_ns), self._looks.get(name)
                soon = before is not None and look[1] - before[1] < GROWING * 1e9
                if not path.is_file() or look == before or (soon and not ending):
                    continue
                self._bucket.upload(path, name)
                self._looks[name] = look


def _passing(part: str) -> bool:
    """Whether a name is of this machine alone, or of what is not finished."""
    return part in (_LOCK, _RUN) or ".damaged" in part or part.endswith(_UNFINISHED)


@contextlib.contextmanager
def _snapshot(step: Path, place: Path) -> Iterator[dict[str, Path]]:
    """A step's files by name, under other names: it may be removed meanwhile. Empty if it was."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        try:
            try:
                shutil.copytree(step, place, copy_function=os.link)
            except OSError:  # no such links here
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(step, place)
            files = {p.relative_to(place).as_posix(): p for p in place.rglob("*") if p.is_file()}
        except OSError:
            if step.exists():
                raise
            files = {}
        yield files
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _digests_last(item: tuple[str, Path]) -> tuple[bool, str]:
    return item[0] == digests.NAME, item[0]


@contextlib.contextmanager
def mirrored(bucket: Bucket, local: Path) -> Iterator[None]:
    """Inside, what is written to `local` is brought to the store, which is ours alone.

    Raises:
        UserError: another run writes there, or it cannot be reached.
        RunFailed: it does not take all of it in the end.
    """
    with _locked(bucket):
        _same_run(bucket, local)
        pull(bucket, local)
        mirror = Mirror(bucket, local)
        try:
            yield
        except BaseException:
            with contextlib.suppress(RunFailed):
                mirror.close(_SHORT)
            raise
        mirror.close(PATIENCE)


def _same_run(bucket: Bucket, local: Path) -> None:
    """What is here of another run, or of one that was removed there, is put aside.

    A run has a name of its own, there and here; here since it is there.
    """
    try:
        try:
            theirs = bucket.read(_RUN).decode()
        except FileNotFoundError:
            theirs = ""
        ours = (local / _RUN).read_text() if (local / _RUN).exists() else ""
        if ours != theirs:
            _put_aside(local)
        name = theirs or uuid.uuid4().hex
        if not theirs:
            bucket.write(_RUN, name.encode())
        (local / _RUN).write_text(name)
    except errors() as error:
        raise UserError(f"--run-dir {bucket.url}: cannot be written: {reason(error)}") from error


def _put_aside(local: Path) -> None:
    old = [path for path in local.iterdir() if path.name != _LOCK]
    if not old:
        return
    aside = local.with_name(f"{local.name}.{time.strftime('%Y%m%d-%H%M%S')}.aside")
    aside.mkdir()
    for path in old:
        path.rename(aside / path.name)
    _LOGGER.warning("warning: what was here of another run at that address is now in %s", aside)


@contextlib.contextmanager
def _locked(bucket: Bucket) -> Iterator[None]:
    """Hold the store's lock, and renew it."""
    _take_lock(bucket)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(RENEWED):
            with contextlib.suppress(*errors()):
                if (found := _read_lock(bucket)) is not None and not _ours(found):
                    _LOGGER.error(
                        "%s: process %s on %s trains in it too: end one of the two",
                        *(bucket.url, found.get("process"), found.get("host")),
                    )
                    return
                _write_lock(bucket)

    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(*errors()):
            if _ours(_read_lock(bucket) or {}):
                bucket.remove(_LOCK)


def _ours(found: Mapping[str, object]) -> bool:
    return (found.get("host"), found.get("process")) == (socket.gethostname(), os.getpid())


def _take_lock(bucket: Bucket) -> None:
    """A store has no locks: one that nobody renews is nobody's."""
    try:
        found = _read_lock(bucket)
        if found is not None and not _abandoned(found):
            _LOGGER.info(
                "%s: %s on %s had it last: waiting %.0f s for a sign of it",
                *(bucket.url, found.get("process"), found.get("host"), LEASE),
            )
            deadline = time.monotonic() + LEASE
            while time.monotonic() < deadline and (now := _read_lock(bucket)) is not None:
                if now != found:
                    raise UserError(
                        f"--run-dir {bucket.url}: process {now.get('process')} on "
                        f"{now.get('host')} trains in it: wait for it, stop it, or name another "
                        "--run-dir"
                    )
                time.sleep(LOOK)
        _write_lock(bucket)
    except errors() as error:
        raise UserError(f"--run-dir {bucket.url}: cannot be written: {reason(error)}") from error


def _read_lock(bucket: Bucket) -> dict[str, object] | None:
    try:
        found = json.loads(bucket.read(_LOCK))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _abandoned(found: Mapping[str, object]) -> bool:
    """Whether it was a process of this machine, which is no more."""
    process = int(str(found.get("process") or 0))
    ended = process == os.getpid() or not psutil.pid_exists(process)
    return found.get("host") == socket.gethostname() and ended


def _write_lock(bucket: Bucket) -> None:
    ours = {"host": socket.gethostname(), "process": os.getpid(), "renewed": time.time()}
    bucket.write(_LOCK, json.dumps(ours).encode())
