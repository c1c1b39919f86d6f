"""Compiling ahead, side by side, in the background.

XLA compiles without Python's lock, and for minutes: a run knows the shapes that it will meet,
so threads compile them in that order while it trains on the first. What cannot be compiled is
known as soon as that is tried, not when the run comes to it.
"""

from __future__ import annotations

import atexit
import concurrent.futures
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
from concurrent.futures import Future
from typing import Any

import psutil
from jax.stages import Compiled, Traced, Wrapped

from vits_jax import device_memory
from vits_jax.compilation import keep, no_garbage_collection, tell
from vits_jax.device_memory import Needs
from vits_jax.ending import not_waited_for
from vits_jax.programs import Composed, Piece, Shape, memory, trace

_LOGGER = logging.getLogger(__name__)

# Of the host's memory. The process that compiled a medium step for a TPU had 4.5 GB, all told.
_BYTES_TO_COMPILE = 4 << 30
_MOST_THREADS = 8
_LOOK = 0.1  # seconds between two looks whether somebody still waits


def most_threads() -> int:
    """Programs that this machine can compile side by side: by its processors and its memory."""
    room = psutil.virtual_memory().available // _BYTES_TO_COMPILE
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
        self._running = self._compiled = 0
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
            try:
                job()
            finally:
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
                    return
                _, _, job = heapq.heappop(self._jobs)
                self._running += 1
            try:
                job()
            finally:
                with self._change:
                    self._running -= 1
                    settled = self._running == 0
                    done = settled and not self._jobs and not self._to_trace
                    if done:
                        self._tell()
                keep(settled)
                if done:
                    tell()

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
            time.sleep(_LOOK)
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
            self._change.notify_all()


class _Entry:
    """What is compiled for one shape."""

    def __init__(self) -> None:
        self.pieces: list[Piece] | None = None  # until it is traced
        self.tracing = 0.0  # seconds, and ...
        self.seconds = 0.0  # ... of all work on what only this shape waited for
        self.done: Future[dict[str, Compiled]] = Future()


class Programs:
    """A composed function, its pieces compiled for each shape that it meets, and for no other.

    ``programs(shape, *arguments)`` cannot compile again: arguments of another shape than
    the first ones under the same key are an error. A shape is (rows, phonemes, frames).

    Args:
        function: composed, or jitted.
        name: for people.
        compiler: that compiles (default: one of its own).
        devices: that rows are spread over.

    Raises:
        RunFailed: there is not memory enough.
    """

    def __init__(
        self,
        function: Composed | Wrapped,
        name: str,
        compiler: Compiler | None = None,
        devices: int = 1,
    ):
        self._function = function if isinstance(function, Composed) else Composed.alone(function)
        self._name, self._devices = name, devices
        self._compiler = compiler or Compiler()
        self._lock = threading.RLock()
        self._entries: dict[Shape, _Entry] = {}
        self._programs: dict[tuple[str, Shape], Future[Compiled]] = {}
        self._needs: dict[Shape, Needs] = {}
        self.seconds = 0.0  # that somebody waited for programs

    @property
    def shapes(self) -> list[Shape]:
        """Those asked for so far."""
        return list(self._entries)

    def pieces(self, shape: Shape) -> list[Piece]:
        """What a shape that is `ready` was traced to."""
        pieces = self._entries[shape].pieces
        assert pieces is not None
        return pieces

    def needs(self, shape: Shape) -> Needs | None:
        """Memory of a shape that is `ready`; None if the devices do not tell."""
        return self._needs.get(shape)

    def tracing(self, shape: Shape) -> float:
        """Seconds that tracing took of a shape that was asked for."""
        return self._entries[shape].tracing

    def ahead(self, shape: Shape, *arguments: Any, first: bool = False) -> None:
        """Compile for a shape, in the background, after what was asked for before.

        Args:
            shape: that the arguments stand for.
            arguments: arrays, or `jax.ShapeDtypeStruct`s with shardings.
            first: before all else.
        """
        if shape not in self._entries:
            entry = self._entries[shape] = _Entry()
            trace_it = functools.partial(self._trace, shape, arguments, entry)
            self._compiler.trace(trace_it, first=first)

    def ready(self, shape: Shape, stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait for a shape, if `ahead` was told of it; else the call does.

        Returns:
            Whether to call: not if `stop` said so before, or it cannot be compiled
            (`Compiler.failure`; a call raises it).
        """
        if shape not in self._entries:
            return True
        done, start = self._entries[shape].done, time.perf_counter()
        while not done.done() and not stop():
            concurrent.futures.wait([done], timeout=_LOOK)
        self.seconds += time.perf_counter() - start
        return done.done() and done.exception() is None

    def __call__(self, shape: Shape, *arguments: Any) -> Any:
        """Call for arguments that `shape` stands for."""
        self.ahead(shape, *arguments, first=True)
        self.ready(shape)
        programs = self._entries[shape].done.result()
        with device_memory.explained(lambda: self._about(shape)):
            return self._function.compose(lambda name, *own: programs[name](*own), *arguments)

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Around where results are waited for: if memory runs out there, `RunFailed` tells.

        Which of the programs it was is not known by then; the largest is named.
        """
        return device_memory.explained(lambda: self._about(self._largest()))

    def _trace(self, shape: Shape, arguments: tuple[Any, ...], entry: _Entry, order: int) -> None:
        start = time.perf_counter()

        def found(piece: Piece) -> None:
            key = (piece.name, piece.key)
            if key not in self._programs:
                self._programs[key] = Future()
                compile_it = functools.partial(self._compile, key, piece.traced, shape, entry)
                self._compiler.submit(order, compile_it)

        try:
            pieces = trace(self._function, shape, arguments, found)
        except Exception as error:  # noqa: BLE001 - it is for those who wait
            self._failed(entry.done, shape, error)
            return
        with self._lock:
            entry.tracing = time.perf_counter() - start
            entry.seconds += entry.tracing
            entry.pieces = pieces
        self._conclude()

    def _compile(self, key: tuple[str, Shape], traced: Traced, shape: Shape, entry: _Entry) -> None:
        start = time.perf_counter()
        try:
            with device_memory.explained(lambda: self._about(shape)):
                with no_garbage_collection():
                    lowered = traced.lower()
                program = lowered.compile()
        except Exception as error:  # noqa: BLE001 - it is for those who wait
            self._failed(self._programs[key], shape, error)
        else:
            self._programs[key].set_result(program)
        with self._lock:
            entry.seconds += time.perf_counter() - start
        self._conclude()

    def _failed(self, future: Future[Any], shape: Shape, error: BaseException) -> None:
        error.add_note(f"while compiling the {self._name} for {_shown(shape)}")
        self._compiler.failure = self._compiler.failure or error
        future.set_exception(error)

    def _conclude(self) -> None:
        """Shapes all of whose pieces are there are done."""
        with self._lock:
            for shape, entry in self._entries.items():
                if entry.pieces is None or entry.done.done():
                    continue
                futures = {p.name: self._programs[p.name, p.key] for p in entry.pieces}
                if not all(future.done() for future in futures.values()):
                    continue
                errors = [f.exception() for f in futures.values() if f.exception() is not None]
                if errors:
                    entry.done.set_exception(errors[0])
                    continue
                programs = {name: future.result() for name, future in futures.items()}
                needs = memory(entry.pieces, programs, self._devices)
                if needs is not None:
                    self._needs[shape] = needs
                _LOGGER.info(
                    "compiled the %s for %s in %.1f s%s",
                    *(self._name, _shown(shape), entry.seconds),
                    "" if needs is None else f": it takes {device_memory.gigabytes(needs.bytes)}",
                )
                entry.done.set_result(programs)

    def _largest(self) -> Shape | None:
        return max(self._needs, key=lambda shape: self._needs[shape].bytes, default=None)

    def _about(self, shape: Shape | None) -> tuple[str, Needs | None]:
        if shape is None:
            return f"the {self._name}", None
        axes = " (rows x phonemes x frames)" if len(shape) == 3 else ""
        return f"the {self._name} for {_shown(shape)}{axes}", self._needs.get(shape)


def _shown(shape: Shape) -> str:
    return " x ".join(map(str, shape))
