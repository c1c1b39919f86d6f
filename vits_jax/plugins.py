"""Functions of other people, named on the command line: ``package.module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vits_jax.errors import UserError


def function_at(where: str, flag: str) -> Callable[..., Any]:
    """A function that is somewhere else.

    Args:
        where: ``package.module:function``; the module is imported, from the working directory too.
        flag: that named it, for messages.

    Raises:
        UserError: there is no such function.
    """
    module_name, colon, name = where.partition(":")
    if not colon or not module_name or not name:
        raise UserError(f"{flag} {where}: expected package.module:function")
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # as `python -m` has it, but last
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:
        raise UserError(
            f"{flag} {where}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise UserError(f"{flag} {where}: {module_name} has no function {name!r}")
    found: Callable[..., Any] = function
    return found
