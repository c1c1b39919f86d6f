"""Voices as Piper exports them, of small networks of the oracle, and what comes back of them."""

from __future__ import annotations

import functools
import sys
import types
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from tests.parity import oracle
from vits_jax.checkpoints.source import UNHEARD
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.config import Config

RATE = 8000


def exported(network: Any, path: Path) -> None:
    """What Piper's own export command writes of a network."""
    from piper.train import export_onnx

    checkpoint = types.SimpleNamespace(model_g=network)
    loading = types.SimpleNamespace(load_from_checkpoint=lambda *_, **__: checkpoint)
    # The default exporter of this torch cannot follow the splines.
    exporting = functools.partial(torch.onnx.export, dynamo=False)
    command = ["export_onnx", "--checkpoint", "x.ckpt", "--output-file", str(path)]
    with (
        mock.patch.object(export_onnx, "VitsModel", loading),
        mock.patch.object(torch.onnx, "export", exporting),
        mock.patch.object(sys, "argv", command),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        export_onnx.main()


def network(config: Config) -> Any:
    """The same every time: an export folds the weight norm of the one that it is given.

    Some norms of the stochastic predictor are at their initial values, so equal.
    """
    made = oracle.randomize(oracle.generator(config.model, config.audio), 1, gain=1.5)
    with torch.no_grad():
        for norm in made.dp.convs.norms_1 if config.model.use_sdp else ():
            norm.gamma.fill_(1)
            norm.beta.fill_(0)
    return made


def voice_json(config: Config) -> dict[str, Any]:
    speakers = config.model.num_speakers
    return {
        "audio": {"sample_rate": RATE, "quality": "medium"},
        "espeak": {"voice": "en-us"},
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "phoneme_id_map": {"_": [0], "^": [1], "$": [2], "a": [5]},
        "num_symbols": config.model.num_symbols,
        "num_speakers": speakers,
        "speaker_id_map": {f"speaker {i}": i for i in range(speakers)} if speakers > 1 else {},
    }


@functools.cache
def recovered(path: Path) -> onnx_voice.Recovered:
    return onnx_voice.read(path)


def save(model: onnx.ModelProto, like: Path, directory: Path) -> Path:
    """A changed graph beside a copy of the JSON."""
    path = directory / "voice.onnx"
    path.write_bytes(model.SerializeToString())
    copied = like.with_name(like.name + ".json").read_text()
    path.with_name("voice.onnx.json").write_text(copied)
    return path


def effective(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With ``weight`` for ``weight_g`` and ``weight_v``, in float64."""
    found = {}
    for name, array in parameters.items():
        array = array.astype(np.float64)
        if name.endswith("weight_v"):
            g = parameters[name.replace("weight_v", "weight_g")]
            norm = np.sqrt(np.sum(array**2, axis=tuple(range(1, array.ndim)), keepdims=True))
            found[name.replace("weight_v", "weight")] = array * g / norm
        elif not name.endswith("weight_g"):
            found[name] = array
    return found


def assert_recovered(
    voice: onnx_voice.Recovered, source: dict[str, np.ndarray], bound: float = 2e-6
) -> None:
    """All that speaking hears is as it was; nothing else is there."""
    heard = {name for name in source if not name.startswith(UNHEARD)}
    assert set(voice.parameters) == heard
    assert set(voice.left_out) == set(source) - heard
    got, expected = effective(voice.parameters), effective({n: source[n] for n in heard})
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=bound, atol=bound / 20, err_msg=name)
        assert voice.parameters.get(name, np.float32(0)).dtype == np.float32


def assert_equal(ours: onnx_voice.Recovered, other: onnx_voice.Recovered) -> None:
    assert ours.config == other.config
    assert ours.parameters.keys() == other.parameters.keys()
    for name, array in ours.parameters.items():
        np.testing.assert_array_equal(array, other.parameters[name], err_msg=name)


def nameless(model: onnx.ModelProto) -> onnx.ModelProto:
    """As older exports: nodes and values have numbers, only inputs and outputs have names."""
    graph = model.graph
    arrays = {tensor.name for tensor in graph.initializer}
    kept = {value.name for value in [*graph.input, *graph.output]} - arrays
    numbers: dict[str, str] = {}

    def numbered(name: str) -> str:
        return name if name in kept or not name else numbers.setdefault(name, f"{len(numbers)}")

    for tensor in graph.initializer:
        tensor.name = numbered(tensor.name)
    for i, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{i}"
        node.input[:] = [numbered(name) for name in node.input]
        node.output[:] = [numbered(name) for name in node.output]
    return model


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def replace(model: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    tensor(model, name).CopyFrom(numpy_helper.from_array(array, name))
