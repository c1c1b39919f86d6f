"""Compiling ahead, side by side, in the background.

XLA compiles without Python's lock, and for minutes: a run knows the shapes that it will meet,
so threads compile them in that order while it trains on the first. What cannot be compiled is
known as soon as that is tried, not when the run comes to it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import heapq
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from vits_jax import device_memory
from vits_jax.compilation import keep, tell
from vits_jax.ending import forget, not_waited_for

_LOGGER = logging.getLogger(__name__)

# Of the host's memory. The process that compiled a medium step for a TPU had 4.5 GB, all told.
_BYTES_TO_COMPILE = 4 << 30
_MOST_THREADS = 8
LOOK = 0.1  # seconds between two looks whether somebody still waits


def most_threads() -> int:
    """Programs that this machine can compile side by side: by its processors and its memory."""
    room = device_memory.host_room() // _BYTES_TO_COMPILE
    return max(1, min(len(os.sched_getaffinity(0)), room, _MOST_THREADS))


class Compiler:
    """Threads that do what is asked for, lower orders first.

    They do not keep the process from ending (`ending`).
    """

    def __init__(self, threads: int | None = None):
        self._number = threads
        self._threads: list[threading.Thread] = []
        self._jobs: list[tuple[int, int, Callable[[], None]]] = []  # a heap: order, count
        self._to_trace: deque[tuple[int, Callable[[], None]]] = deque()
        self._count = itertools.count()
        self._change = threading.Condition()
        self._tracing = self._closed = False
        self._running = self._compiled = self._left = 0
        self._since = 0.0
        self.failure: BaseException | None = None
        """Of the first program that could not be compiled."""

    def trace(self, job: Callable[[int], None], *, first: bool = False) -> None:
        """Call `job` with the order for what it submits: after what was asked for before.

        One at a time: two would share Python's lock, and the one that is waited for be late.

        Args:
            job: traces, and submits what is to be compiled.
            first: before all else.
        """
        with self._change:
            order = -1 if first else next(self._count)
            entry = (order, functools.partial(job, order))
            (self._to_trace.appendleft if first else self._to_trace.append)(entry)
            self._trace_next()
            if not self._compiled and not self._running:
                self._since = time.perf_counter()
            if not self._threads:
                self._start()

    def submit(self, order: int, job: Callable[[], None]) -> None:
        """Call `job`."""
        with self._change:
            self._compiled += 1
            heapq.heappush(self._jobs, (order, next(self._count), job))
            self._change.notify()

    def _trace_next(self) -> None:
        if self._tracing or not self._to_trace or self._closed:
            return
        order, job = self._to_trace.popleft()
        self._tracing = True

        def alone() -> None:
            with Tell(self.fail):
                job()
            with self._change:
                self._tracing = False
                self._trace_next()

        heapq.heappush(self._jobs, (order, -1, alone))
        self._change.notify()

    def _start(self) -> None:
        not_waited_for(self._at_work)
        atexit.register(self._wait)
        for i in range(self._number or most_threads()):
            thread = threading.Thread(target=self._run, name=f"compiler {i}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    self._left += 1
                    if self._left == len(self._threads):
                        forget(self._at_work)
                        atexit.unregister(self._wait)
                    return
                _, _, job = heapq.heappop(self._jobs)
                self._running += 1
            with Tell(self.fail):
                job()
            with self._change:
                self._running -= 1
                settled = self._running == 0
                done = settled and not self._jobs and not self._to_trace and not self._closed
                if done:
                    self._tell()
            with contextlib.suppress(OSError):  # of a cache that cannot be written
                keep(settled)
                if done:
                    tell()

    def fail(self, error: BaseException) -> None:
        """Remember the first thing that went wrong."""
        self.failure = self.failure or error

    @property
    def over(self) -> bool:
        """Whether it is closed, and nothing is being done any more."""
        return self._closed and not self._running

    def _tell(self) -> None:
        if self._compiled > 1:
            _LOGGER.info(
                "compiled all there is: %d programs in %.1f s, in %d threads",
                *(self._compiled, time.perf_counter() - self._since, len(self._threads)),
            )
        self._compiled = 0

    def _at_work(self) -> bool:
        return self._running > 0

    def _wait(self) -> None:
        """Where Python ends by itself: a thread that comes back from XLA later would abort it."""
        self.close()
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Until all is compiled that was asked for.

        Raises:
            Exception: `failure`, as soon as there is one.
        """
        while not self._settled():
            if self.failure is not None:
                raise self.failure
            time.sleep(LOOK)
        if self.failure is not None:
            raise self.failure

    def _settled(self) -> bool:
        with self._change:
            left = self._jobs or self._to_trace or self._tracing or self._running
            return not left or self._closed

    def close(self) -> None:
        """Begin nothing more; what is being done is not waited for."""
        with self._change:
            self._closed = True
            self._jobs.clear()
            self._to_trace.clear()
            self._change.notify_all()


class Tell:
    """Around what nobody calls: what goes wrong is told to those who wait for it."""

    def __init__(self, tell: Callable[[Exception], None]):
        self._tell = tell

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, at: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._tell(error)
        return True
