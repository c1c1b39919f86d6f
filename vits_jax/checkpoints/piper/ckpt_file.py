"""Files that PyTorch wrote, read without running anything that is in them, and written.

The one place that imports torch, and only when a file is read or written.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.errors import UserError

_INSTALL = 'pip install "vits_jax[torch]" (for a CPU-only PyTorch, install that first)'


def read_ckpt(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, its tensors mapped from the file rather than copied.

    PyTorch's ``weights_only`` unpickler knows tensors and plain containers. Beyond those it
    is told of what old checkpoints hold, each as something harmless: paths (as text) and
    numpy's numbers. A file that names any other type or function is refused by that name.

    Raises:
        UserError: no such file, not a checkpoint, a type that is not on the list, or torch
            is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: expected one of Piper's .ckpt checkpoints")
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals(_safe_types()):
            values = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # noqa: BLE001  a hostile file may end in any of them
        raise UserError(f"{path}: {_reason(torch, path, error)}") from None
    if not isinstance(values, dict) or not isinstance(values.get("state_dict"), Mapping):
        raise UserError(f"{path}: not a Lightning checkpoint: expected a dict with a state_dict")
    return values


def to_numpy(tensor: Any) -> np.ndarray | None:
    """The tensor's own memory as an array of its shape, or None if it holds no plain numbers."""
    try:
        if tensor.is_floating_point() and tensor.element_size() == 2:
            tensor = tensor.float()  # half precision: numpy has no bfloat16
        return tensor.detach().numpy()
    except (AttributeError, TypeError, RuntimeError, ValueError):  # sparse, quantised, no tensor
        return None


def write_ckpt(values: Mapping[str, Any], path: Path) -> None:
    """Write a Lightning checkpoint whose arrays are numpy's; the file appears when complete.

    Raises:
        UserError: the file cannot be written, or torch is not installed.
    """
    torch = _torch(path)
    unfinished = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        torch.save(_tensors(torch, values), unfinished)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError where it cannot open
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be written: {reason}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: .ckpt files need PyTorch: {_INSTALL}") from None
    return torch


def _safe_types() -> list[Any]:
    """(what to make, the name that the file calls it by) of all that is allowed."""

    def path_text(*parts: str) -> str:
        return "/".join(map(str, parts))

    paths = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
    modules = ("pathlib", "pathlib._local")  # since Python 3.13
    numbers: list[Any] = [np.dtype, *(type(np.dtype(code)) for code in "?bhilBHILefd")]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        numbers.append((_scalar, f"{module}.scalar"))
    return numbers + [(path_text, f"{module}.{name}") for module in modules for name in paths]


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype)[0]


def _reason(torch: Any, path: Path, error: Exception) -> str:
    try:
        with torch.serialization.safe_globals(_safe_types()):
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  the file is broken: the first error says so
        unsafe = []
    text = " ".join(str(error).split())
    if not unsafe:  # files from before PyTorch 1.6 are not looked through: the error has the name
        unsafe = re.findall(r"GLOBAL ([\w.]+)", text)
    if unsafe:
        return (
            f"refused, nothing in it was run: it names {', '.join(sorted(unsafe))}, "
            "expected tensors, numbers, texts and containers alone"
        )
    return f"not a checkpoint that PyTorch can read, or cut short: {text[:200]}"


def _tensors(torch: Any, value: Any) -> Any:
    """With every array as a tensor; containers are those of Python, so that all can read it."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.array(value))  # a copy of its own: writable, contiguous
    if isinstance(value, Mapping):
        return {key: _tensors(torch, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_tensors(torch, item) for item in value)
    return value
