"""Piper's cached audio: a tensor in a ``.pt`` file, read without running code from it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np

from vits_jax.data.corpora.audio_files import AudioFault
from vits_jax.errors import UserError


def read(path: Path) -> np.ndarray:
    """The tensor that ``torch.save`` wrote, an array of its shape.

    Raises:
        AudioFault: it holds no tensor, or more than tensors; nothing of it was run.
        UserError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a torch tensor, which needs torch: pip install 'vits_jax[torch]'"
        ) from error
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError,
            IndexError, pickle.UnpicklingError, zipfile.BadZipFile) as error:  # fmt: skip
        # torch explains at length how to switch its safety off.
        raise AudioFault("undecodable", "no torch tensor, or more than one") from error
    if not isinstance(value, torch.Tensor):
        raise AudioFault("undecodable", f"{type(value).__name__}, expected a torch tensor")
    if value.is_sparse or value.is_quantized or value.dtype == torch.bfloat16:
        raise AudioFault("undecodable", f"{value.dtype} {value.layout}, expected a plain tensor")
    return value.detach().numpy()
