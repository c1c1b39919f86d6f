"""``--profile N``: what the devices do in N steps, for TensorBoard's profile page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax

_LOGGER = logging.getLogger(__name__)

_AFTER = 3  # steps of a process: the first ones compile and fill queues


class Profiler:
    """Traces some steps into a run directory, once a process; nothing without a directory.

    Parts of the model have their names in it (`jax.named_scope`). A trace that cannot be
    written is a warning.

    Args:
        steps: how many; 0 for none.
    """

    def __init__(self, run_dir: Path | None, steps: int):
        self._run_dir, self._left = run_dir, steps if run_dir is not None else 0
        self._before, self._tracing = _AFTER, False

    def begin(self) -> None:
        """Before a step."""
        if self._before:
            self._before -= 1
        elif self._left and not self._tracing:
            self._tracing = self._try(jax.profiler.start_trace, str(self._run_dir))
            if not self._tracing:
                self._left = 0

    def end(self, results: Any) -> None:
        """After a step was started; `results` are waited for if it is the last one."""
        if self._tracing:
            self._left -= 1
            if not self._left:
                jax.block_until_ready(results)
                self.close()

    def close(self) -> None:
        """Write what there is."""
        if self._tracing:
            self._tracing = False
            if self._try(jax.profiler.stop_trace):
                _LOGGER.info("profile: %s/plugins/profile", self._run_dir)

    def _try(self, function: Any, *arguments: Any) -> bool:
        try:
            function(*arguments)
        except (RuntimeError, OSError) as error:
            _LOGGER.warning("--profile: no trace: %s", error)
            return False
        return True
