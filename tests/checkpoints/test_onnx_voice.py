"""Voices back to checkpoints: exports with their names and without, and what is refused."""

from __future__ import annotations

import functools
import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import vits_jax
from tests.parity import oracle
from tests.parity.cases import CASES
from tests.parity.comparing import assert_close
from tools import import_onnx
from vits_jax.checkpoints import saving
from vits_jax.checkpoints.source import UNHEARD
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.voice import compression, graph

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


@pytest.fixture(scope="session")
def piper_export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The voice of one of the cases; do not change the file."""

    @functools.cache
    def make(name: str) -> Path:
        path = tmp_path_factory.mktemp("voices") / f"{name}.onnx"
        exported(network(CASES[name]), path)
        path.with_name(path.name + ".json").write_text(json.dumps(voice_json(CASES[name])))
        return path

    return make


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


# What comes back


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


# What is refused

PLAIN = "single-resblock2-plain"


def test_all_that_is_wrong_at_once(piper_export: Callable[[str], Path], tmp_path: Path) -> None:
    model = onnx.load(piper_export(PLAIN))
    replace(model, "enc_p.encoder.norm_layers_1.0.gamma", np.ones(7, np.float32))
    replace(model, "dec.conv_post.weight", np.ones((1, 8, 9), np.float32))
    replace(model, "dp.proj.bias", np.full(1, np.nan, np.float32))
    replace(model, "flow.flows.2.pre.weight", np.ones((16, 8, 1), np.float64))
    (dilated,) = (n for n in model.graph.node if n.name == "/dec/resblocks.3/convs.1/Conv")
    next(a for a in dilated.attribute if a.name == "dilations").ints[:] = [5]
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 3), np.float32), "strange"))
    path = save(model, piper_export(PLAIN), tmp_path)
    values = json.loads((tmp_path / "voice.onnx.json").read_text()) | {"num_symbols": 25}
    (tmp_path / "voice.onnx.json").write_text(json.dumps(values))
    with pytest.raises(UserError) as refused:
        onnx_voice.read(path)
    for part in (
        "voice.onnx: not a voice that can be imported: ",
        "enc_p.encoder.norm_layers_1.0.gamma: got [7], expected [16]",
        "dec.conv_post.weight: got [1, 8, 9], expected [1, 8, 7]",
        "dp.proj.bias: has numbers that are not finite",
        "flow.flows.2.pre.weight: got none, expected [16, 8, 1]",
        "dec.resblocks.3.convs.1: got dilation 5, expected 6",
        "strange [2, 3], read by no node: expected no such tensor",
        "num_symbols: 24 by the tensors, 25 by the JSON",
    ):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def other_graph() -> onnx.ModelProto:
    value = functools.partial(helper.make_tensor_value_info, elem_type=1, shape=[1, 3])
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "other", [value("x")], [value("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_another_graph(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    onnx.save(other_graph(), path)
    with pytest.raises(UserError) as refused:
        onnx_voice.read(path)
    for part in (
        "other.onnx: not the graph of a Piper voice: ",
        "got op set ai.onnx 17, expected ai.onnx 15",
        "got inputs x, expected input, input_lengths, scales",
        "got outputs y, expected output",
    ):
        assert part in str(refused.value)


def test_quantised_weights(piper_export: Callable[[str], Path], tmp_path: Path) -> None:
    model = onnx.load(piper_export(PLAIN))
    inputs, outputs = ["output"], ["q", "scale", "zero"]
    model.graph.node.append(helper.make_node("DynamicQuantizeLinear", inputs, outputs))
    with pytest.raises(UserError, match="its weights are quantised .DynamicQuantizeLinear"):
        onnx_voice.read(save(model, piper_export(PLAIN), tmp_path))


def test_a_network_with_piper_s_inputs(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["scales"], ["output"])],
        "other",
        [value("input", 7, [1, 9]), value("input_lengths", 7, [1]), value("scales", 1, [3])],
        [value("output", 1, [3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, tmp_path / "x.onnx")
    (tmp_path / "x.onnx.json").write_text(json.dumps(voice_json(CASES[PLAIN])))
    with pytest.raises(UserError, match=r"got 0 convolutions|enc_p\.emb\.weight: got none"):
        onnx_voice.read(tmp_path / "x.onnx")


@pytest.mark.parametrize("place", ["initializer", "constant"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "weights.bin"])
def test_data_in_other_files_is_not_read(
    place: str, target: str, piper_export: Callable[[str], Path], tmp_path: Path
) -> None:
    model = onnx.load(piper_export(PLAIN))
    if place == "constant":
        constants = (n for n in model.graph.node if n.op_type == "Constant")
        array = next(constants).attribute[0].t
        array.name = "dp.proj.weight"
    else:
        array = tensor(model, "dp.proj.weight")
    array.ClearField("raw_data")
    array.data_location = array.EXTERNAL
    array.external_data.add(key="location", value=target)
    path = save(model, piper_export(PLAIN), tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(1024))
    with pytest.raises(UserError, match=r"the data of dp\.proj\.weight is in other files"):
        onnx_voice.read(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot read .*voice.onnx.json: No such file.*--voice-config names it"),
        ("{", "voice.onnx.json: broken JSON"),
        ("[" * 100_000, "voice.onnx.json: broken JSON"),
        ("\xff", "voice.onnx.json: broken JSON"),
        (r'{"dataset": "\ud800"}', "voice.onnx.json: broken JSON.*surrogates not allowed"),
        ("[]", "expected a JSON object, got list"),
        ("{}", "audio.sample_rate is None, expected a whole number above 0; no phoneme_id_map"),
        (
            '{"audio": [], "phoneme_id_map": {"a": 3}, "speaker_id_map": {"x": "y"}, '
            '"num_speakers": "1", "espeak": 4}',
            "audio.sample_rate is None.*num_speakers is '1'.*each symbol a list of ids.*"
            "each speaker's name an id.*espeak is 4",
        ),
        (
            '{"audio": {"sample_rate": 8000}, "phoneme_id_map": {"a": [24]}, "hop_length": 256, '
            '"speaker_id_map": {"x": 1}}',
            "hop_length: 16 by the tensors, 256 by the JSON; phoneme_id_map: id 24, expected ids "
            "below 24; speaker_id_map: id 1, expected ids below 1",
        ),
    ],
)
def test_the_json(
    text: str | None, expected: str, piper_export: Callable[[str], Path], tmp_path: Path
) -> None:
    path = save(onnx.load(piper_export(PLAIN)), piper_export(PLAIN), tmp_path)
    beside = tmp_path / "voice.onnx.json"
    beside.unlink()
    if text is not None:
        beside.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=expected):
        onnx_voice.read(path)


def accepted(path: Path) -> bool:
    """Whether it is; all but a refusal of one line is an error here."""
    try:
        onnx_voice.read(path)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        return False
    return True


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_truncated_files(data: st.DataObject, piper_export, tmp_path_factory) -> None:
    content = piper_export(PLAIN).read_bytes()
    path = save(onnx.ModelProto(), piper_export(PLAIN), tmp_path_factory.mktemp("truncated"))
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert not accepted(path)


@settings(max_examples=25, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_random_bytes(garbage: bytes, piper_export, tmp_path_factory) -> None:
    path = save(onnx.ModelProto(), piper_export(PLAIN), tmp_path_factory.mktemp("garbage"))
    path.write_bytes(garbage)
    assert not accepted(path)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_changed_bytes(data: st.DataObject, piper_export, tmp_path_factory) -> None:
    """Half of them in the nodes, which come first; most of the file are numbers."""
    content = bytearray(piper_export(PLAIN).read_bytes())
    nodes = content.find(b"emb_rel_k", len(content) // 8)
    for _ in range(data.draw(st.integers(1, 3))):
        end = data.draw(st.sampled_from([nodes, len(content)]))
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = save(onnx.ModelProto(), piper_export(PLAIN), tmp_path_factory.mktemp("changed"))
    path.write_bytes(content)
    accepted(path)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_changed_tensors(data: st.DataObject, piper_export, tmp_path_factory) -> None:
    """Names do not matter where the place tells; shape and type do."""
    like = piper_export(PLAIN)
    model = onnx.load(like)
    arrays = model.graph.initializer
    index = data.draw(st.integers(0, len(arrays) - 1))
    name, shape = arrays[index].name, list(arrays[index].dims)
    change = data.draw(st.sampled_from(["name", "shape", "type", "absent", "short", "int"]))
    if change == "name":
        other = data.draw(st.text(st.characters(codec="utf-8"), min_size=1))
        arrays[index].name = f"{other}\N{BULLET}"
        for node in model.graph.node:
            node.input[:] = [arrays[index].name if value == name else value for value in node.input]
    elif change == "shape":
        arrays[index].dims[:] = [int(np.prod(shape)), *[1] * len(shape)]
    elif change == "short":
        arrays[index].raw_data = arrays[index].raw_data[:-4]
    elif change == "absent":
        del arrays[index]
    else:
        kind = np.float64 if change == "type" else np.int64
        array = numpy_helper.to_array(arrays[index])
        replace(model, name, array.astype(kind))
    path = save(model, like, tmp_path_factory.mktemp("tensors"))
    if change == "name":
        assert_equal(onnx_voice.read(path), recovered(like))
    else:
        assert not accepted(path)


# The command


def test_nothing_is_overwritten_or_half_written(
    piper_export: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    voice, out = str(piper_export(PLAIN)), tmp_path / "out"
    out.mkdir()
    assert import_onnx.main([voice, str(out)]) == 2
    assert "out: is there already" in capsys.readouterr().err
    assert list(out.iterdir()) == []
    out.rmdir()

    (tmp_path / "file").touch()
    assert import_onnx.main([voice, str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.Checkpoints, "save", fail)
    assert import_onnx.main([voice, str(out)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_flags(
    piper_export: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "lone.onnx"
    lone.write_bytes(piper_export(PLAIN).read_bytes())
    out = str(tmp_path / "out")
    assert import_onnx.main([str(lone), out]) == 2
    assert "lone.onnx.json" in capsys.readouterr().err
    config = f"{piper_export(PLAIN)}.json"
    assert import_onnx.main([str(lone), out, "--voice_config", config]) == 0
    assert import_onnx.main([str(lone), out, "--voice-confg", config]) == 2
    assert "did you mean --voice-config?" in capsys.readouterr().err
    assert import_onnx.main([str(lone)]) == 2
    assert import_onnx.main([str(tmp_path / "absent.onnx"), f"{out}2"]) == 2
    assert "No such file" in capsys.readouterr().err
