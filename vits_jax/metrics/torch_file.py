"""Tensors of a file that PyTorch wrote before 1.6, read without PyTorch and without unpickling.

Such a file is five pickles and then the numbers. Of a pickle's instructions those that make
plain containers are followed here; an instruction that would call something is followed for the
two calls that make tensors and ordered dictionaries, and for no other.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_TENSOR, _DICTIONARY = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
_STORAGE = "torch FloatStorage"
_MARK = object()


class _Name(str):
    """What a pickle calls by name, of which nothing is looked up."""


class _Storage(NamedTuple):
    """Float32 numbers, which come after the pickles."""

    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(content: bytes, under: str) -> dict[str, np.ndarray]:
    """The tensors of the dictionary that the file's dictionary has under a key.

    Args:
        content: of the file.
        under: the key.

    Returns:
        Arrays of their own by name.

    Raises:
        ValueError: the file is another, is cut short, or holds something else.
    """
    file = io.BytesIO(content)
    try:
        if _read(file) != _MAGIC:
            raise ValueError("not a file of PyTorch's first format")
        _version, _machine, root, keys = (_read(file) for _ in range(4))
        storages = {key: _numbers(file) for key in keys}
        found = root[under]
        tensors = {name: value for name, value in found.items() if isinstance(value, _Tensor)}
        return {name: _array(tensor, storages) for name, tensor in tensors.items()}
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not as PyTorch writes it: {error}") from error


def _numbers(file: io.BytesIO) -> bytes:
    """A storage: how many numbers it has, and those."""
    count = int.from_bytes(file.read(8), "little")
    numbers = file.read(4 * count)
    if len(numbers) != 4 * count:
        raise ValueError("cut short")
    return numbers


def _array(tensor: _Tensor, storages: dict[str, bytes]) -> np.ndarray:
    flat = np.frombuffer(storages[tensor.storage.key], "<f4")
    contiguous = tuple(int(np.prod(tensor.shape[i + 1 :])) for i in range(len(tensor.shape)))
    if tensor.strides != contiguous:
        raise ValueError(f"a tensor of strides {tensor.strides}, expected {contiguous}")
    end = tensor.offset + int(np.prod(tensor.shape))
    return flat[tensor.offset : end].reshape(tensor.shape).copy()


def _read(file: io.BytesIO) -> Any:
    """The value of the pickle that begins here; the file is left after it."""
    stack: list[Any] = []
    memory: dict[int, Any] = {}
    argument: Any
    for instruction, argument, _ in pickletools.genops(file):
        name = instruction.name
        if name == "STOP":
            (value,) = stack
            return value
        if name in ("BINPUT", "LONG_BINPUT"):
            memory[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memory[argument])
        elif name in _MAKE:
            stack.append(_MAKE[name]())
        elif name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"):
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name in _FOLD:
            _FOLD[name](stack)
        elif name != "PROTO":
            raise ValueError(f"it holds {name}, which nothing here follows")
    raise ValueError("cut short")


def _since_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1
    while stack[at] is not _MARK:
        at -= 1
        if at < 0:
            raise ValueError("not a pickle")
    values = stack[at + 1 :]
    del stack[at:]
    return values


def _tuple(size: int) -> Callable[[list[Any]], None]:
    def fold(stack: list[Any]) -> None:
        stack[-size:] = [tuple(stack[-size:])]

    return fold


def _marked_tuple(stack: list[Any]) -> None:
    values = _since_mark(stack)
    stack.append(tuple(values))


def _set_items(stack: list[Any]) -> None:
    values = _since_mark(stack)
    stack[-1].update(zip(values[::2], values[1::2]))


def _set_item(stack: list[Any]) -> None:
    key, value = stack[-2:]
    del stack[-2:]
    stack[-1][key] = value


def _appends(stack: list[Any]) -> None:
    values = _since_mark(stack)
    stack[-1].extend(values)


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    stack[-1].append(value)


def _build(stack: list[Any]) -> None:
    stack.pop()  # what a dictionary has beside its items


def _persistent(stack: list[Any]) -> None:
    kind, type_, key, *_ = stack.pop()
    if kind != "storage" or type_ != _STORAGE:
        raise ValueError(f"it holds {kind} of {type_}, expected storages of float32")
    stack.append(_Storage(key))


def _call(stack: list[Any]) -> None:
    arguments, called = stack.pop(), stack.pop()
    if called == _DICTIONARY and not arguments:
        stack.append({})
    elif called == _TENSOR and isinstance(arguments[0], _Storage):
        storage, offset, shape, strides, *_ = arguments
        stack.append(_Tensor(storage, offset, shape, strides))
    else:
        raise ValueError(f"refused, nothing in it was run: it calls {called}")


_MAKE: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_FOLD: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _marked_tuple,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "SETITEMS": _set_items,
    "SETITEM": _set_item,
    "APPENDS": _appends,
    "APPEND": _append,
    "BUILD": _build,
    "BINPERSID": _persistent,
    "REDUCE": _call,
}
