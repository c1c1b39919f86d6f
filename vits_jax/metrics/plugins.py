"""Metrics of other people: ``package.module:function``."""

from __future__ import annotations

from vits_jax.errors import UserError
from vits_jax.metrics.metric import Better, Metric
from vits_jax.plugins import function_at

_BETTER: tuple[Better, ...] = ("lower", "higher", "nearest")


def plugin(where: str) -> Metric:
    """A metric that is a function somewhere.

    The function takes a list of `Clip` and returns a float for each, NaN where it has none. It
    may have attributes ``better`` (``lower``, ``higher`` or ``nearest``; default: ``lower``),
    ``unit`` and ``needs`` (of ``reference``, ``text``); its docstring's first line says what it
    tells. It is named as the function is.

    Args:
        where: ``package.module:function``.

    Raises:
        UserError: there is no such function, or its attributes cannot be.
    """
    function = function_at(where, "--metric")
    name = where.partition(":")[2]
    said = getattr(function, "better", "lower")
    better = next((known for known in _BETTER if known == said), None)
    if better is None:
        raise UserError(f"--metric {where}: better is {said!r}, expected {', '.join(_BETTER)}")
    needs = frozenset(getattr(function, "needs", ()))
    if not needs <= {"reference", "text"}:
        raise UserError(f"--metric {where}: needs {sorted(needs)}, expected reference or text")
    return Metric(
        name,
        function,
        better=better,
        unit=str(getattr(function, "unit", "")),
        about=(function.__doc__ or "").strip().partition("\n")[0],
        source=where,
        needs=needs,
        cost="dear",
    )
