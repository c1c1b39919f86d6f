"""Processes that do jobs, their results in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from vits_jax.errors import RunFailed

_T = TypeVar("_T")

Submit = Callable[[Callable[..., _T], Iterable[tuple[Any, ...]]], Iterator[_T]]
"""A function and its arguments, job by job, to its results in the same order."""


@contextlib.contextmanager
def workers(count: int) -> Iterator[Submit]:
    """Spawned processes that do jobs; with one, this process does them itself."""
    if count == 1:
        yield lambda function, jobs: (function(*job) for job in jobs)
        return
    # Spawned, not forked: numerical libraries keep threads and locks that a fork breaks.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))

    def submit(function: Callable[..., _T], jobs: Iterable[tuple[Any, ...]]) -> Iterator[_T]:
        # Bounded, or the results of a large corpus would wait in memory for the writer.
        pending: deque[Future[_T]] = deque()
        for job in jobs:
            with _interrupts_blocked():  # workers start here, and inherit it
                pending.append(pool.submit(function, *job))
            if len(pending) >= 8 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield submit
    except BrokenProcessPool as error:
        raise RunFailed(
            f"a worker process died (out of memory?): try fewer than --max-workers {count}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


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
