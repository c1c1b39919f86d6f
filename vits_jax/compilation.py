"""How programs are compiled, and that they are remembered between runs."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.stages import Wrapped

from vits_jax import program_cache


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


def keep(settled: bool) -> None:
    """What was compiled so far stays for the next start, even if this process is killed.

    Args:
        settled: whether nothing is being compiled now, so that no program is half written.
    """
    directory = _cache_directory()
    if directory is not None:
        program_cache.seal(directory, settled)


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
