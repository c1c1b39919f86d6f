"""Compiling: once per shape, said aloud, and remembered between runs."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.stages import Compiled, Wrapped

from vits_jax import device_memory, program_cache

_LOGGER = logging.getLogger(__name__)


def use_cache() -> None:
    """Keep what is compiled in ``~/.cache/vits_jax``, or where ``XDG_CACHE_HOME`` says.

    ``JAX_COMPILATION_CACHE_DIR`` wins. What is damaged there is removed.
    """
    ours = _cache_directory() is None
    if ours:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "vits_jax" / "jax"))
    directory = _cache_directory()
    if directory is not None:
        program_cache.remove_damaged(directory, ours)
        atexit.register(program_cache.seal, directory)


def _cache_directory() -> Path | None:
    name = jax.config.values["jax_compilation_cache_dir"]
    return None if name is None else Path(name)


def options_for(platform: str) -> dict[str, str] | None:
    """Compiler options of every program of ours on ``"cpu"``, ``"gpu"`` or ``"tpu"``.

    XLA:CPU finds each YNN fusion again by a walk over the whole program when it loads it
    from the cache: thousands of them took most of the loading (docs/performance.md). And
    jaxlib 0.11.2 is reported to compile some of them to wrong numbers.
    """
    return {"xla_cpu_experimental_ynn_fusion_type": ""} if platform == "cpu" else None


def jit(function: Callable[..., Any], platform: str | None = None, **options: Any) -> Wrapped:
    """`jax.jit` with `options_for` a platform (default: that of JAX's first device)."""
    platform = platform or jax.default_backend()
    return jax.jit(function, compiler_options=options_for(platform), **options)


def outlined(function: Callable[..., Any], platform: str) -> Callable[..., Any]:
    """On ``"cpu"``, `function` as a computation of its own in the compiled program.

    XLA:CPU compares every kernel of a computation with every other when it loads it, to
    find which may run side by side: two computations of half the size load in half the time.
    """
    if platform != "cpu":
        return function

    def call(*arguments: Any, **named: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*arguments, **named)

    return call


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of small objects that live: looking through them costs a third."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CompiledByShape:
    """A jitted function, compiled ahead for each shape that it meets, and for no other.

    ``compiled[shape](*arguments)`` cannot compile again: arguments of another shape than
    the first ones under the same key are an error. A shape is (rows, phonemes, frames).

    Raises:
        RunFailed: there is not memory enough.
    """

    def __init__(self, function: Any, name: str):
        self._function, self._name = function, name
        self._compiled: dict[tuple[int, ...], Compiled] = {}
        self.seconds = 0.0  # spent compiling, all shapes together

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes compiled so far."""
        return list(self._compiled)

    def __call__(self, shape: tuple[int, ...], *arguments: Any) -> Any:
        """Call for arguments that `shape` stands for."""
        with device_memory.explained(lambda: self._about(shape)):
            if shape not in self._compiled:
                self._compile(shape, arguments)
            return self._compiled[shape](*arguments)

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Around where results are waited for: if memory runs out there, `RunFailed` tells.

        Which of the programs it was is not known by then; the largest is named.
        """
        return device_memory.explained(lambda: self._about(self._largest()))

    def _compile(self, shape: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        start = time.perf_counter()
        with no_garbage_collection():
            lowered = self._function.lower(*arguments)
        program = self._compiled[shape] = lowered.compile()
        if (directory := _cache_directory()) is not None:
            program_cache.seal(directory)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        needs = device_memory.asked(program)
        _LOGGER.info(
            "compiled the %s for %s in %.1f s%s",
            *(self._name, " x ".join(map(str, shape)), seconds),
            "" if needs is None else f": it takes {device_memory.gigabytes(needs)}",
        )

    def _largest(self) -> tuple[int, ...] | None:
        needs = {shape: device_memory.asked(p) or 0 for shape, p in self._compiled.items()}
        return max(needs, key=needs.__getitem__, default=None)

    def _about(self, shape: tuple[int, ...] | None) -> tuple[str, Compiled | None]:
        if shape is None:
            return f"the {self._name}", None
        shown = " x ".join(map(str, shape))
        what = f"the {self._name} for {shown} (rows x phonemes x frames)"
        return what, self._compiled.get(shape)
