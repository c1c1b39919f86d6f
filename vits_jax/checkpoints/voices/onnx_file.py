"""A voice's ONNX file, parsed and checked before anything is made of it.

Nothing in a file is run, and no other file is opened, whatever this one says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vits_jax.errors import UserError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

OPSET = 15  # of every Piper export, and of vits_jax's own
INPUTS = ("input", "input_lengths", "scales")
SPEAKER = "sid"  # the fourth input, with several speakers
OUTPUT = "output"

_MOST_BYTES = 2**31 - 1  # what protobuf can hold in one file
_QUANTIZED = re.compile(r"QLinear\w+|\w+Integer|(?:Dynamic)?QuantizeLinear|DequantizeLinear")


def load(path: Path) -> ModelProto:
    """Parse and check a file.

    Raises:
        UserError: not ONNX, damaged, with data in other files, or not the graph of a Piper voice.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            f"{path}: reading ONNX needs the onnx package: pip install 'vits_jax[export]'"
        ) from error
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path}: over 2 GB: expected a Piper voice of some 20 to 150 MB")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        # Before the checker, which would look at the files that these name.
        external = [str(t.name or "(no name)") for t in _tensors(model) if _is_external(t)]
        if external:
            raise UserError(
                f"{path}: the data of {', '.join(external)} is in other files, which are not "
                "read: expected a voice in one file"
            )
        onnx.checker.check_model(model)
        if not all(isinstance(text, str) for text in _texts(model)):  # bytes, if not UTF-8
            raise ValueError("a name that is not UTF-8")
    except (DecodeError, onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not an ONNX file, or a damaged one: {reason}") from error
    problems = list(_not_a_voice(model))
    if problems:
        raise UserError(f"{path}: not the graph of a Piper voice: " + "; ".join(problems))
    return model


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All arrays of a file, wherever they may hide."""
    for training in model.training_info:
        yield from _tensors_of_graph(training.initialization)
        yield from _tensors_of_graph(training.algorithm)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)
    yield from _tensors_of_graph(model.graph)


def _tensors_of_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of_graph(graph)


def _texts(model: ModelProto) -> Iterator[str]:
    """All names that are looked at."""
    graph = model.graph
    yield model.producer_name
    yield from (opset.domain for opset in model.opset_import)
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.name, node.op_type, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _is_external(tensor: TensorProto) -> bool:
    return tensor.data_location == tensor.EXTERNAL or len(tensor.external_data) > 0


def _not_a_voice(model: ModelProto) -> Iterator[str]:
    graph = model.graph
    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    if opsets != {"ai.onnx": OPSET}:
        got = ", ".join(f"{domain} {version}" for domain, version in opsets.items())
        yield f"got op set {got}, expected ai.onnx {OPSET}"
    arrays = {tensor.name for tensor in graph.initializer}
    inputs = tuple(value.name for value in graph.input if value.name not in arrays)
    if inputs not in (INPUTS, (*INPUTS, SPEAKER)):
        yield (
            f"got inputs {', '.join(inputs) or 'none'}, expected {', '.join(INPUTS)} "
            f"(and {SPEAKER})"
        )
    outputs = [value.name for value in graph.output]
    if outputs[:1] != [OUTPUT]:
        yield f"got outputs {', '.join(outputs) or 'none'}, expected {OUTPUT} first"
    quantized = sorted({n.op_type for n in graph.node if _QUANTIZED.fullmatch(n.op_type)})
    if quantized:
        yield f"its weights are quantised ({', '.join(quantized)}), expected float32"
