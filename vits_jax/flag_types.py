"""Values of flags, from YAML or as text from the command line, in the types that they have."""

from __future__ import annotations

import types
import typing
from typing import Any

import yaml

from vits_jax.errors import UserError


def convert(value: Any, kind: Any, where: str) -> Any:
    """`value`, from YAML or as text from the command line, as a `kind`; else `UserError`."""
    if isinstance(value, str) and kind is not str and kind != (str | None):
        value = _literal(value, kind)
    try:
        return _as(value, kind)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: got {value!r}, expected {describe(kind)}") from None


def _literal(text: str, kind: Any) -> Any:
    """A flag's text as YAML; a bare ``0.8,0.99`` and Python's ``(8, 8, 4)`` are sequences."""
    if typing.get_origin(kind) is tuple:
        text = text.strip().replace("(", "[").replace(")", "]")
        text = text if text.startswith("[") and text.endswith("]") else f"[{text}]"
        text = text.replace(",]", "]")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # a ValueError: a date that is none
        return text


def _as(value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return _as_union(value, args)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        if args[-1] is Ellipsis:
            return tuple(_as(item, args[0]) for item in value)
        return tuple(_as(item, part) for item, part in zip(value, args, strict=True))
    if kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)  # `resblock: 1` in YAML is a number
    if kind is float and not isinstance(value, bool):
        return float(value)  # YAML 1.1 reads 1e-4 as a string
    if kind in (int, bool) and type(value) is kind:
        return value
    raise TypeError


def _as_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    if type(value) in kinds:  # keeps 1 and 1.0 apart where both are allowed
        return value
    for kind in kinds:
        if kind is not type(None):
            try:
                return _as(value, kind)
            except (TypeError, ValueError):
                continue
    raise TypeError


def describe(kind: Any) -> str:
    """A type in the user's words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return " or ".join(describe(part) for part in args if part is not type(None))
    if origin is tuple:
        return f"a list of {describe(args[0])}s" if args[-1] is Ellipsis else f"{len(args)} numbers"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return names[kind] if origin is None and kind in names else str(kind)
