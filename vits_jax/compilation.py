"""How programs are compiled, and that they are remembered between runs."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
from jax.experimental.xla_metadata import set_xla_metadata
from jax.stages import Wrapped

from vits_jax import program_cache

_LOGGER = logging.getLogger(__name__)


_LEAST_SECONDS = 0.1
"""To compile: what took less is not kept, as finding and loading it would take as long."""
_FOUND, _KEPT = (f"/jax/compilation_cache/{name}" for name in ("cache_hits", "cache_misses"))


class Remembered(NamedTuple):
    """Programs of this process: how many the cache had, and how many it has now besides."""

    found: int
    kept: int


def use_cache() -> None:
    """Keep what is compiled in ``~/.cache/vits_jax``, or where ``XDG_CACHE_HOME`` says.

    ``JAX_COMPILATION_CACHE_DIR`` wins. What is damaged there is removed, and of our own
    directory what was not used for the longest time, where it is larger than
    `program_cache.LIMIT` or ``JAX_COMPILATION_CACHE_MAX_SIZE`` bytes.
    """
    ours = jax.config.values["jax_compilation_cache_dir"] is None
    if ours:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "vits_jax" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    _count_events()
    directory = local_directory()
    if directory is None:
        return
    asked = jax.config.values["jax_compilation_cache_max_size"]
    program_cache.remove_damaged(directory, ours)
    if ours:
        # JAX's own pruning needs another package, a lock, and marks that older programs lack.
        jax.config.update("jax_compilation_cache_max_size", -1)
        program_cache.prune(directory, program_cache.LIMIT if asked < 0 else asked)
    elif asked >= 0:
        program_cache.mark(directory)
    atexit.register(program_cache.seal, directory)


def keep(settled: bool) -> None:
    """What was compiled so far stays for the next start, even if this process is killed.

    Args:
        settled: whether nothing is being compiled now, so that no program is half written.
    """
    directory = local_directory()
    if directory is not None:
        program_cache.seal(directory, settled)


def remembered() -> Remembered:
    """Since `use_cache` was called first."""
    return Remembered(_events[_FOUND], _events[_KEPT])


def tell() -> None:
    """Say what came from the cache and what went there, if that is more than was said before."""
    global _told
    now = remembered()
    if now != _told:
        _told = now
        directory = local_directory()
        size = None if directory is None else program_cache.size(directory)
        _LOGGER.info(
            "compiled programs: %d found in %s, %d added%s",
            *(now.found, jax.config.values["jax_compilation_cache_dir"], now.kept),
            "" if size is None else f": it holds {size / 1e6:,.1f} MB",
        )


_events: Counter[str] = Counter()
_counting = threading.Lock()
_told = Remembered(0, 0)


@functools.cache
def _count_events() -> None:
    def count(event: str, **_: Any) -> None:
        with _counting:  # several threads compile
            _events[event] += 1

    jax.monitoring.register_event_listener(count)


def local_directory() -> Path | None:
    """JAX's cache, unless it is a bucket (``gs://``): what lies there is left to JAX."""
    name = jax.config.values["jax_compilation_cache_dir"]
    return None if name is None or "://" in str(name) else Path(name)


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


_collecting = threading.Lock()
_not_collecting = 0  # how many are inside at once
_was_enabled = True


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of small objects that live: looking through them costs a third."""
    global _not_collecting, _was_enabled
    with _collecting:
        if _not_collecting == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _not_collecting += 1
    try:
        yield
    finally:
        with _collecting:
            _not_collecting -= 1
            if _not_collecting == 0 and _was_enabled:
                gc.enable()
