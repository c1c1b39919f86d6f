"""Ending a process in whose threads something is still at work that nobody waits for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from vits_jax.messages import Unblocked

_AT_WORK: list[Callable[[], bool]] = []


def not_waited_for(at_work: Callable[[], bool]) -> None:
    """Register something whose threads may be at work when the process is to end."""
    _AT_WORK.append(at_work)


def forget(at_work: Callable[[], bool]) -> None:
    """Its threads have ended."""
    if at_work in _AT_WORK:
        _AT_WORK.remove(at_work)


def any_at_work() -> bool:
    """Whether something is."""
    return any(at_work() for at_work in _AT_WORK)


def end(code: int) -> int:
    """The exit code, unless something is at work: then the process ends here, with that code.

    Python would wait for threads inside of a library, or crash as it takes itself apart.
    """
    if any_at_work():
        end_now(code)
    return code


def end_now(code: int) -> NoReturn:
    """End the process here, from any thread, with what was said so far."""
    logging.shutdown()
    sys.stdout.flush()
    if isinstance(sys.stderr, Unblocked):
        sys.stderr.finish()
    sys.stderr.flush()
    os._exit(code)
