"""Compiling: once per shape, said aloud, and remembered between runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_LOGGER = logging.getLogger(__name__)


def use_cache() -> None:
    """Keep what is compiled in ``~/.cache/vits_jax``, or where ``XDG_CACHE_HOME`` says.

    ``JAX_COMPILATION_CACHE_DIR`` wins.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "vits_jax" / "jax"))


class CompiledByShape:
    """A jitted function, compiled ahead for each shape that it meets, and for no other.

    ``compiled[shape](*arguments)`` cannot compile again: arguments of another shape than
    the first ones under the same key are an error.
    """

    def __init__(self, function: Any, name: str):
        self._function, self._name = function, name
        self._compiled: dict[tuple[int, ...], Callable[..., Any]] = {}
        self.seconds = 0.0  # spent compiling, all shapes together

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes compiled so far."""
        return list(self._compiled)

    def __call__(self, shape: tuple[int, ...], *arguments: Any) -> Any:
        """Call for arguments that `shape` stands for."""
        if shape not in self._compiled:
            start = time.perf_counter()
            self._compiled[shape] = self._function.lower(*arguments).compile()
            seconds = time.perf_counter() - start
            self.seconds += seconds
            shown = " x ".join(map(str, shape))
            _LOGGER.info("compiled the %s for %s in %.1f s", self._name, shown, seconds)
        return self._compiled[shape](*arguments)
