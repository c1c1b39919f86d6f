"""DNSMOS: networks that were trained on what listeners said of speech (Reddy et al. 2021, 2022).

The package ``speechmos`` ships them. Only its files are read: the package itself would import
librosa, and takes one process-wide model at a time.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vits_jax.metrics.clips import Clip, resampled
from vits_jax.metrics.metric import NotTaken, needed
from vits_jax.metrics.spectra import mel_power

RATE = 16000
_SECONDS = 9.01  # that a network hears at once
_OVERALL = (-0.06766283, 1.11546468, 0.04602535)
"""The fit from the network's overall number to the listeners' (P.835), highest power first."""


class Opinion(NamedTuple):
    """Mean opinion scores, from 1 to 5."""

    overall: float  # of the network of P.835, on speech, background and overall quality
    quality: float  # of the network of P.808, on overall quality


def overall(clips: Sequence[Clip]) -> np.ndarray:
    """DNSMOS P.835, overall: float64 ``[clips]``."""
    return np.asarray([opinion(clip).overall for clip in clips])


def quality(clips: Sequence[Clip]) -> np.ndarray:
    """DNSMOS P.808: float64 ``[clips]``."""
    return np.asarray([opinion(clip).quality for clip in clips])


@functools.lru_cache(maxsize=256)
def opinion(clip: Clip) -> Opinion:
    """What the networks think of a clip: the mean over windows of 9.01 s, one a second.

    A shorter clip is doubled until it is long enough.
    """
    audio = np.clip(resampled(clip, RATE), -1, 1)
    size = int(_SECONDS * RATE)
    while len(audio) < size:
        audio = np.concatenate([audio, audio])
    p835, p808 = _networks()
    overalls, qualities = [], []
    for index in range(int(len(audio) // RATE - _SECONDS) + 1):
        part = audio[index * RATE : int((index + _SECONDS) * RATE)]
        if len(part) < size:
            continue
        _, _, raw = p835.run(None, {"input_1": part[None]})[0][0]
        overalls.append(np.polyval(_OVERALL, raw))
        qualities.append(p808.run(None, {"input_1": _features(part[:-160])[None]})[0][0][0])
    return Opinion(float(np.mean(overalls)), float(np.mean(qualities)))


def _features(audio: np.ndarray) -> np.ndarray:
    """What P.808's network reads: float32 ``[frames, 120]``, decibels below the loudest."""
    power = mel_power(audio, RATE, 321, 160, 120)
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    decibels = np.maximum(decibels - decibels.max(), -80)
    return ((decibels + 40) / 40).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _networks() -> tuple[Any, Any]:
    onnxruntime = needed("onnxruntime")
    found = importlib.util.find_spec("speechmos")  # looked for, not imported
    if found is None or not found.submodule_search_locations:
        raise NotTaken('speechmos is not installed: pip install "vits_jax[metrics]"')
    folder = Path(found.submodule_search_locations[0]) / "dnsmos_models"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    networks = []
    for name in ("sig_bak_ovr.onnx", "model_v8.onnx"):
        if not (folder / name).is_file():
            raise NotTaken(f"speechmos lacks {name}: expected version 0.0.1.1")
        networks.append(
            onnxruntime.InferenceSession(
                str(folder / name), options, providers=["CPUExecutionProvider"]
            )
        )
    return networks[0], networks[1]
