"""What a metric is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np

Better = Literal["lower", "higher", "nearest"]
"""Which figure is the better one; ``nearest``: the nearer to the recordings' own."""
Need = Literal["reference", "text", "recordings"]
"""Of each clip its recording or its text; of the speaker, recordings."""


@dataclass(frozen=True)
class Metric:
    """A number that can be taken of a clip.

    Attributes:
        name: of the flag and the tables.
        function: ``Sequence[Clip]`` to float64 ``[clips]``, NaN where it cannot be taken. One
            that needs ``recordings`` takes them as a second ``Sequence[Clip]``; they must not
            hold it against a clip that it is among them.
        better: which is the better figure.
        unit: of the number; empty for a bare one.
        about: in one line, what it tells.
        source: paper or package.
        needs: what it cannot be taken without.
        cost: ``cheap``: far less than the clip lasts; ``dear``: a network or a recogniser runs.
        languages: beginnings of the language codes that it knows; empty: all.
    """

    name: str
    function: Callable[..., np.ndarray]
    better: Better = "lower"
    unit: str = ""
    about: str = ""
    source: str = ""
    needs: frozenset[Need] = frozenset()
    cost: Literal["cheap", "dear"] = "cheap"
    languages: tuple[str, ...] = ()


class NotTaken(Exception):
    """A metric that cannot be taken here at all; the message says why, in one line."""


def needed(module: str, install: str = 'pip install "vits_jax[metrics]"') -> ModuleType:
    """A module that the extra brings.

    Raises:
        NotTaken: it is not installed, or does not start.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise NotTaken(f"{missing} is not installed: {install}") from error
