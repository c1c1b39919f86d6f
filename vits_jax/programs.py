"""A composed function, compiled ahead in the background for each shape that it meets."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
from jax.stages import Compiled, Traced, Wrapped

from vits_jax import device_memory
from vits_jax.compilation import no_garbage_collection
from vits_jax.compiler import LOOK, Compiler, Tell
from vits_jax.composed import Composed, Piece, Shape, memory, trace
from vits_jax.device_memory import Needs

_LOGGER = logging.getLogger(__name__)


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
        told: is called with a shape and what the compiler says that it takes of each device.
        before_first: is called before the first call for each shape.
        keep_pieces: for `pieces`; else what was traced is forgotten when it is compiled.

    Raises:
        RunFailed: there is not memory enough.
    """

    def __init__(
        self,
        function: Composed | Wrapped,
        name: str,
        compiler: Compiler | None = None,
        devices: int = 1,
        told: Callable[[Shape, Needs], None] = lambda shape, needs: None,
        before_first: Callable[[], None] = lambda: None,
        keep_pieces: bool = False,
    ):
        self._told, self._before_first, self._keep_pieces = told, before_first, keep_pieces
        self._function = function if isinstance(function, Composed) else Composed.alone(function)
        self._name, self._devices = name, devices
        self._compiler = compiler or Compiler()
        self._lock = threading.RLock()
        self._entries: dict[Shape, _Entry] = {}
        self._programs: dict[tuple[str, Shape], Future[Compiled]] = {}
        self._needs: dict[Shape, Needs] = {}
        self._called: set[Shape] = set()
        self.seconds = 0.0  # that somebody waited for programs

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
            first: before all else, if it was not asked for yet.
        """
        with self._lock:
            if shape in self._entries:
                return
            entry = self._entries[shape] = _Entry()
        trace_it = functools.partial(self._trace, shape, arguments, entry)
        self._compiler.trace(trace_it, first=first)

    def ready(self, shape: Shape, stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait for a shape, if `ahead` was told of it; else the call does.

        Returns:
            Whether to call: not if `stop` said so before, or something cannot be compiled
            (`Compiler.failure`).
        """
        if shape not in self._entries:
            return True
        self._wait(shape, lambda: stop() or self._compiler.failure is not None)
        done = self._entries[shape].done
        return done.done() and done.exception() is None and self._compiler.failure is None

    def _wait(self, shape: Shape, stop: Callable[[], bool] = lambda: False) -> None:
        done, start = self._entries[shape].done, time.perf_counter()
        while not done.done() and not stop() and not self._compiler.over:
            concurrent.futures.wait([done], timeout=LOOK)
        self.seconds += time.perf_counter() - start

    def __call__(self, shape: Shape, *arguments: Any) -> Any:
        """Call for arguments that `shape` stands for."""
        self.ahead(shape, *arguments, first=True)
        self._wait(shape, lambda: self._compiler.failure is not None)
        done = self._entries[shape].done
        if not done.done():
            raise self._compiler.failure or RuntimeError("what compiles was closed")
        programs = done.result()
        if shape not in self._called:
            self._before_first()
            self._called.add(shape)
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

        with Tell(lambda error: self._failed(entry.done, shape, error)):
            pieces = trace(self._function, shape, arguments, found)
        if entry.done.done():
            return
        with self._lock:
            entry.tracing = time.perf_counter() - start
            entry.seconds += entry.tracing
            entry.pieces = pieces
        self._conclude()

    def _compile(self, key: tuple[str, Shape], traced: Traced, shape: Shape, entry: _Entry) -> None:
        start = time.perf_counter()
        future = self._programs[key]
        with (
            Tell(lambda error: self._failed(future, shape, error)),
            device_memory.explained(lambda: self._about(shape)),
        ):
            with no_garbage_collection():
                lowered = traced.lower()
            future.set_result(lowered.compile())
        with self._lock:
            entry.seconds += time.perf_counter() - start
        self._conclude()

    def _failed(self, future: Future[Any], shape: Shape, error: BaseException) -> None:
        error.add_note(f"while compiling the {self._name} for {_shown(shape)}")
        self._compiler.fail(error)
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
                with contextlib.suppress(jax.errors.JaxRuntimeError):  # it does not tell
                    needs = memory(entry.pieces, programs, self._devices)
                    if needs is not None:
                        self._needs[shape] = needs
                if not self._keep_pieces:
                    entry.pieces = []
                self._say(shape, entry.seconds)
                if shape in self._needs:
                    self._told(shape, self._needs[shape])
                entry.done.set_result(programs)

    def _say(self, shape: Shape, seconds: float) -> None:
        needs = self._needs.get(shape)
        _LOGGER.info(
            "compiled the %s for %s in %.1f s%s",
            *(self._name, _shown(shape), seconds),
            "" if needs is None else f": it takes {device_memory.gigabytes(needs.bytes)}",
        )

    def _largest(self) -> Shape | None:
        with self._lock:
            return max(self._needs, key=lambda shape: self._needs[shape].bytes, default=None)

    def _about(self, shape: Shape | None) -> tuple[str, Needs | None]:
        if shape is None:
            return f"the {self._name}", None
        axes = " (rows x phonemes x frames)" if len(shape) == 3 else ""
        return f"the {self._name} for {_shown(shape)}{axes}", self._needs.get(shape)


def _shown(shape: Shape) -> str:
    return " x ".join(map(str, shape))
