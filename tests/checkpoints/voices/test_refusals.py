"""Files that are no voice, or a damaged one: refused by name, and nothing is half-written."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.checkpoints.voices.exports import (
    assert_equal,
    recovered,
    replace,
    save,
    tensor,
    voice_json,
)
from tests.parity.cases import CASES
from tools import import_onnx
from vits_jax.checkpoints import saving
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.errors import UserError

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
