"""The weights of a Piper voice's ONNX graph, under the names of Piper's ``state_dict``.

An export keeps the names of most tensors, and the places of its nodes (``/dec/conv_pre/Conv``)
where PyTorch is 1.13 or newer. What was computed while exporting (weight norm, ``-logs``) has
lost its name. So a convolution is named by the place of its node, else by its own tensors,
else by its turn: Piper runs them in one order. Everything else is named by itself, else
by the convolution before it.

The graph is not run: its arrays are copied out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vits_jax.checkpoints.voices.onnx_file import INPUTS, SPEAKER
from vits_jax.errors import UserError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

OURS = "vits_jax"  # the producer of this project's own exports
N_FLOWS = WN_LAYERS = 4
DDS_LAYERS = 3

_PARTS = r"(?:enc_p|dp|flow|dec)\.[\w.]+"
_MODULE = re.compile(rf"{_PARTS}|enc_p|dp|flow|dec|emb_g")
_TENSOR = re.compile(rf"(?:{_PARTS}|emb_g)\.(?:weight|bias|gamma|beta|m|logs|emb_rel_[kv])")
_TABLES = ("enc_p.emb.weight", "emb_g.weight")
_SHIFT, _SCALE = "dp.flows.0.m", "dp.flows.0.logs"


@dataclass(frozen=True)
class Weights:
    """What a graph holds.

    `tensors` are float32 by name, weight norm folded: ``dec.ups.0.weight`` stands for its
    ``weight_g`` and ``weight_v``. `strides` and `dilations` are the convolutions', by the
    path of their module. `unnamed` are arrays that have no place in Piper's network, as
    lines of a complaint.
    """

    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    strides: dict[str, int] = field(default_factory=dict)
    dilations: dict[str, int] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)


# Arrays


@dataclass(frozen=True)
class _Array:
    """A constant value; `source` is the array in the file that it comes from."""

    array: np.ndarray
    source: str


def _constants(graph: GraphProto) -> dict[str, _Array]:
    """Constant values by name, those of equal tensors that an export stores once too."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64)
    found = {}

    def add(name: str, tensor: TensorProto) -> None:
        if tensor.data_type in kinds:
            try:
                array = numpy_helper.to_array(tensor)
            except (ValueError, TypeError, OverflowError, MemoryError) as error:
                raise UserError(
                    f"{name or 'a tensor'} of shape {list(tensor.dims)} is damaged: {error}"
                ) from error
            if tensor.data_type == TensorProto.FLOAT16:
                array = array.astype(np.float32)  # it is cast before it is used
            found[name] = _Array(array, name)

    for tensor in graph.initializer:
        add(tensor.name, tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    add(node.output[0], attribute.t)
        elif node.input and node.input[0] in found:
            if node.op_type == "Identity":
                found[node.output[0]] = found[node.input[0]]
            elif node.op_type == "Cast":
                to = [helper.get_attribute_value(a) for a in node.attribute if a.name == "to"]
                if to == [TensorProto.FLOAT]:
                    found[node.output[0]] = found[node.input[0]]
    return found


# Convolutions


@dataclass(frozen=True)
class _Conv:
    node: NodeProto
    shape: tuple[int, ...]
    transposed: bool
    stride: int
    dilation: int
    before_activation: bool  # a leaky ReLU comes next


def _convolutions(graph: GraphProto, constants: Mapping[str, _Array]) -> Iterator[_Conv]:
    from onnx import helper

    activated = {node.input[0] for node in graph.node if node.op_type == "LeakyRelu"}
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or node.input[1] not in constants:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        yield _Conv(
            node,
            constants[node.input[1]].array.shape,
            node.op_type == "ConvTranspose",
            stride=int((attributes.get("strides") or [1])[-1]),
            dilation=int((attributes.get("dilations") or [1])[-1]),
            before_activation=node.output[0] in activated,
        )


def _module(node: NodeProto) -> str | None:
    """``/dec/ups.0/ConvTranspose`` → ``dec.ups.0``; None where the name does not tell."""
    path = node.name.strip("/").rpartition("/")[0].replace("/", ".")
    return path if _MODULE.fullmatch(path) else None


def _conv_module(node: NodeProto) -> str | None:
    """The module of a convolution by its place, else by the names of its tensors."""
    by_tensor = (n.rpartition(".")[0] for n in node.input[1:] if _TENSOR.fullmatch(n))
    return _module(node) or next(by_tensor, None)


def _in_order(convs: list[_Conv]) -> list[str]:
    """The modules of all convolutions of a voice, in the order in which Piper runs them.

    Raises:
        UserError: they are not those of a voice.
    """
    shapes = [conv.shape if len(conv.shape) == 3 else (0, 0, 0) for conv in convs]
    shapes += [(0, 0, 0)] * 6
    hidden, at = shapes[0][0], 0
    paths: list[str] = []
    square = (hidden, hidden, 1)
    while shapes[at : at + 4] == [square] * 4 and shapes[at + 4] == (
        *shapes[at + 5][1::-1],
        shapes[at + 5][2],
    ):
        layer, at = at // 6, at + 6
        paths += [f"enc_p.encoder.attn_layers.{layer}.conv_{part}" for part in "qkvo"]
        paths += [f"enc_p.encoder.ffn_layers.{layer}.conv_{part}" for part in "12"]
    paths.append("enc_p.proj")
    first, second = shapes[at + 1 : at + 3]
    if (hidden, 3) in (first[1:], second[1:]):  # the plain predictor's first layer
        several = first[1:] != (hidden, 3)
        paths += ["dp.cond"] * several + ["dp.conv_1", "dp.conv_2", "dp.proj"]
    else:
        several = second[2] == 1
        paths += ["dp.pre"] + ["dp.cond"] * several + _separable("dp.convs") + ["dp.proj"]
        for i in range(2 * N_FLOWS - 1, 1, -2):  # the last one, flows.1, is not run
            flow = f"dp.flows.{i}"
            paths += [f"{flow}.pre", *_separable(f"{flow}.convs"), f"{flow}.proj"]
    for i in range(2 * N_FLOWS - 2, -1, -2):
        flow = f"flow.flows.{i}"
        paths += [f"{flow}.pre"] + [f"{flow}.enc.cond_layer"] * several
        for j in range(WN_LAYERS):
            paths += [f"{flow}.enc.in_layers.{j}", f"{flow}.enc.res_skip_layers.{j}"]
        paths.append(f"{flow}.post")
    paths += ["dec.conv_pre"] + ["dec.cond"] * several
    paths += _decoder(convs[len(paths) : -1])
    paths.append("dec.conv_post")
    if len(paths) != len(convs):
        raise UserError(
            f"got {len(convs)} convolutions, in no order that Piper runs them in "
            "(their nodes and weights have lost their names)"
        )
    return paths


def _separable(path: str) -> list[str]:
    """The convolutions of a ``DDSConv``."""
    kinds = ("convs_sep", "convs_1x1")
    return [f"{path}.{kind}.{i}" for i in range(DDS_LAYERS) for kind in kinds]


def _decoder(convs: list[_Conv]) -> list[str]:
    """The modules from the first upsampling to the last residual block."""
    paths: list[str] = []
    up = block = -1
    position = 0  # in its residual block
    for conv in convs:
        if conv.transposed:
            up += 1
            paths.append(f"dec.ups.{up}")
            position = 0
            continue
        if position == 0:
            block += 1
            # Only the first of a pair goes into an activation without a residual.
            pairs = conv.before_activation
        if pairs:
            paths.append(f"dec.resblocks.{block}.convs{position % 2 + 1}.{position // 2}")
        else:
            paths.append(f"dec.resblocks.{block}.convs.{position}")
        position = (position + 1) % (6 if pairs else 2)
    return paths


# Names


def weights(model: ModelProto) -> Weights:
    """What the graph of a voice (`onnx_file.load`) holds.

    Raises:
        UserError: an array is damaged, or the convolutions cannot be told apart.
    """
    graph = model.graph
    constants = _constants(graph)
    convs = list(_convolutions(graph, constants))
    modules = [_conv_module(conv.node) for conv in convs]
    if None in modules or max(Counter(modules).values(), default=0) > 1:
        modules = [*_in_order(convs)]
    found = Weights()
    by_output = {}
    for conv, module in zip(convs, modules):
        assert module is not None
        by_output[conv.node.output[0]] = module
        found.strides[module], found.dilations[module] = conv.stride, conv.dilation
    claimed = set()
    module = None
    for node in graph.node:
        module = by_output.get(node.output[0], module) if node.output else module
        for position, value in enumerate(node.input):
            constant = constants.get(value)
            if constant is None or constant.array.dtype != np.float32:
                continue
            name = _name(node, position, value, constant.array.shape, module, found.tensors)
            if name is None:
                continue
            claimed.add(constant.source)
            if name in found.tensors:
                found.unnamed.append(f"{value} {list(constant.array.shape)}: a second {name}")
            found.tensors[name] = _trained(name, node.op_type, constant.array)
    found.unnamed.extend(_unnamed(graph, constants, claimed))
    if model.producer_name == OURS:
        _undo_our_layout(found)
    return found


def _name(
    node: NodeProto,
    position: int,
    value: str,
    shape: tuple[int, ...],
    module: str | None,
    taken: Iterable[str],
) -> str | None:
    """The tensor that a node reads here; None where it reads a constant of another kind.

    Args:
        module: the convolution that this node is, or that ran last before it.
        taken: the names given so far.
    """
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose"):
        return f"{module}.{'weight' if position == 1 else 'bias'}" if position else None
    if kind in ("Identity", "Cast"):  # read by others under their own names
        return None
    if _TENSOR.fullmatch(value) and value not in taken:  # else it is shared among equals
        return value
    if kind == "Gather" and len(shape) == 2 and position == 0:
        # Not by its name: exports of one speaker call the phonemes' table "sid".
        return dict(zip((INPUTS[0], SPEAKER), _TABLES)).get(node.input[1])
    if shape == (2, 1):
        return {"Sub": _SHIFT, "Neg": _SCALE, "Exp": _SCALE, "Mul": _SCALE}.get(kind)
    if module is None:
        return None
    if len(shape) == 3 and ".attn_layers." in module:
        attention = module.rpartition(".")[0]
        keys = f"{attention}.emb_rel_k"
        return keys if keys not in taken else f"{attention}.emb_rel_v"
    norm = _norm_after(module)
    if len(shape) == 1 and norm is not None and kind in ("Mul", "Add"):
        return f"{norm}.{'gamma' if kind == 'Mul' else 'beta'}"
    return None


_NORMS = {
    r"(.*)\.attn_layers\.(\d+)\.conv_o": r"\1.norm_layers_1.\2",
    r"(.*)\.ffn_layers\.(\d+)\.conv_2": r"\1.norm_layers_2.\2",
    r"(.*)\.convs_sep\.(\d+)": r"\1.norms_1.\2",
    r"(.*)\.convs_1x1\.(\d+)": r"\1.norms_2.\2",
    r"dp\.conv_([12])": r"dp.norm_\1",
}


def _norm_after(module: str) -> str | None:
    """The layer norm that follows a convolution."""
    for pattern, norm in _NORMS.items():
        match = re.fullmatch(pattern, module)
        if match:
            return match.expand(norm)
    return None


def _trained(name: str, kind: str, array: np.ndarray) -> np.ndarray:
    """A tensor as it was trained: an export may hold ``-logs`` or ``exp(-logs)``."""
    if name != _SCALE or kind == "Neg":
        return array
    if kind == "Exp":
        return -array
    with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite is refused later
        return -np.log(array)


def _unnamed(
    graph: GraphProto, constants: Mapping[str, _Array], claimed: set[str]
) -> Iterator[str]:
    """Arrays of numbers that a Piper voice does not have."""
    places: dict[str, str] = {}
    for node in graph.node:
        for value in node.input:
            if value in constants:
                places.setdefault(constants[value].source, node.name or node.op_type)
    for name, constant in constants.items():
        if constant.source != name or name in claimed:
            continue
        if constant.array.dtype == np.float32 and constant.array.size > 1:
            place = f"read by {places[name]}" if name in places else "read by no node"
            yield f"{name} {list(constant.array.shape)}, {place}: expected no such tensor"


def _undo_our_layout(found: Weights) -> None:
    """Tensors of our own exports (`vits_jax.voice.graph`) as they were trained.

    There a convolution of width 1 may be a matrix product, and the mean over a stage's
    blocks is left to the weights that come next.
    """
    tensors = found.tensors
    ups = [name for name in found.strides if re.fullmatch(r"dec\.ups\.\d+", name)]
    blocks = {m.group() for m in map(re.compile(r"dec\.resblocks\.\d+").match, tensors) if m}
    for name, array in list(tensors.items()):
        if name.endswith(".weight") and array.ndim == 2 and name not in _TABLES:
            tensors[name] = array.T[:, :, None]
        elif name.endswith(".emb_rel_k") and array.ndim == 2:
            tensors[name] = array.T[None]
        elif name.endswith(".emb_rel_v") and array.ndim == 2:
            tensors[name] = array[None]
        elif name in (_SHIFT, _SCALE) and array.size == 1:
            # The second channel is not heard: Piper's initial value.
            tensors[name] = np.asarray([[array.item()], [0.0]], np.float32)
    mean = np.float32(len(blocks) // max(len(ups), 1))
    for name in [f"{up}.weight" for up in ups if up != "dec.ups.0"] + ["dec.conv_post.weight"]:
        if name in tensors:
            tensors[name] = tensors[name] * mean
