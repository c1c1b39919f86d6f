"""Voices back to checkpoints: every weight, from exports with their names and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import vits_jax
from tests.checkpoints.voices.exports import (
    RATE,
    assert_equal,
    assert_recovered,
    nameless,
    network,
    recovered,
    replace,
    save,
    tensor,
    voice_json,
)
from tests.parity import oracle
from tests.parity.cases import CASES
from tests.parity.comparing import assert_close
from tools import import_onnx
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.voice import compression, graph


@pytest.mark.parametrize("name", CASES)
def test_every_weight_of_a_piper_voice(name: str, piper_export: Callable[[str], Path]) -> None:
    config = CASES[name]
    voice = onnx_voice.read(piper_export(name))
    assert_recovered(voice, oracle.flat(network(config)))
    not_in_it = {"segment_size": voice.config.model.segment_size, "discriminator_width": 1024}
    assert voice.config.model == config.replaced(not_in_it).model
    assert voice.config.audio.hop_length == config.audio.hop_length
    assert voice.config.audio.sample_rate == RATE
    assert voice.dataset == voice_json(config)


@pytest.mark.parametrize("name", CASES)
def test_without_names(name: str, piper_export: Callable[[str], Path], tmp_path: Path) -> None:
    path = piper_export(name)
    stripped = save(nameless(onnx.load(path)), path, tmp_path)
    assert b"enc_p" not in stripped.read_bytes()
    assert_equal(onnx_voice.read(stripped), recovered(path))


def test_equal_tensors_are_stored_once(piper_export: Callable[[str], Path]) -> None:
    """So the two tests above cover that."""
    path = piper_export("multi-resblock1-sdp")
    stored = {tensor.name for tensor in onnx.load(path).graph.initializer}
    names = [f"dp.convs.norms_1.{i}.gamma" for i in range(3)]
    assert len(stored & set(names)) == 1
    for name in names:
        np.testing.assert_array_equal(recovered(path).parameters[name], 1.0)


@pytest.mark.parametrize("form", ["float32", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_a_voice_of_our_own(name: str, form: str, tmp_path: Path) -> None:
    config = CASES[name]
    source = oracle.flat(network(config))
    model = graph.whole(config, source, alignments=False)
    if form == "float16":
        model = compression.half(model)
    path = tmp_path / "ours.onnx"
    onnx.save(model, path)
    (tmp_path / "ours.onnx.json").write_text(json.dumps(voice_json(config)))
    # The second channel of this flow is not heard, and not exported.
    for unheard in ("dp.flows.0.m", "dp.flows.0.logs"):
        if unheard in source:
            source[unheard][1] = 0
    assert_recovered(onnx_voice.read(path), source, 2e-6 if form == "float32" else 1e-3)


@pytest.mark.parametrize("form", ["logs", "exp(-logs)"])
def test_other_forms_of_a_scale(
    form: str, piper_export: Callable[[str], Path], tmp_path: Path
) -> None:
    """How much of ``exp(-logs)`` is computed while exporting depends on the exporter."""
    like = piper_export("single-resblock2-sdp")
    model = onnx.load(like)
    nodes = model.graph.node
    (scale,) = (node for node in nodes if node.name == "/dp/flows.0/Exp")
    negative = numpy_helper.to_array(tensor(model, scale.input[0]))
    assert negative.all()
    if form == "logs":
        replace(model, scale.input[0], -negative)
        nodes.insert(list(nodes).index(scale), helper.make_node("Neg", [scale.input[0]], ["-logs"]))
        scale.input[0] = "-logs"
    else:
        replace(model, scale.input[0], np.exp(negative))
        (user,) = (node for node in nodes if scale.output[0] in node.input)
        user.input[:] = [v if v != scale.output[0] else scale.input[0] for v in user.input]
        nodes.remove(scale)
    got = onnx_voice.read(save(model, like, tmp_path)).parameters["dp.flows.0.logs"]
    np.testing.assert_allclose(got, recovered(like).parameters["dp.flows.0.logs"], atol=1e-7)


def test_a_row_of_zeros_has_no_direction() -> None:
    weight = np.asarray([[[3.0, 4.0]], [[0.0, 0.0]]], np.float32)
    g, v = onnx_voice.normalised(weight)
    assert g.ravel().tolist() == [5.0, 0.0]
    np.testing.assert_array_equal(v[0], weight[0])
    assert np.isfinite(v / np.linalg.norm(v, axis=(1, 2), keepdims=True)).all()


def test_it_speaks_as_piper(piper_export: Callable[[str], Path], tmp_path: Path) -> None:
    name = "multi-resblock1-sdp"
    out = tmp_path / "deep" / "checkpoint"
    assert import_onnx.main([str(piper_export(name)), str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["checkpoint"]
    voice = vits_jax.load(out)
    assert voice.speakers["speaker 2"] == 2
    ids = [1, 0, 5, 0, 9, 0, 17, 0, 2]
    audio = voice.synthesize(ids, speaker_id=2, noise_scale=0.0, noise_w=0.0)
    with torch.no_grad():
        expected = network(CASES[name]).infer(
            torch.tensor([ids]),
            torch.tensor([len(ids)]),
            sid=torch.tensor([2]),
            noise_scale=0.0,
            noise_scale_w=0.0,
        )[0]
    assert np.abs(audio).max() > 1e-3
    assert_close(audio, expected[0, 0].numpy(), 1e-4)
