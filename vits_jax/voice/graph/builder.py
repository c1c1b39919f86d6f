"""A graph that grows node by node, and the place in it that a module writes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 15  # Piper's; every runtime that plays its voices has it
IR_VERSION = 8  # the one that came with opset 15

Value = str
"""A tensor in the graph, by its name."""

Signature = dict[Value, tuple[int, list[str | int]]]
"""Inputs or outputs: element type and shape of each; a size may be a name."""


@dataclass
class Graph:
    """Nodes, and the arrays that they use, so far.

    `parameters` are a network's, in float32, under the names of Piper's ``state_dict``.
    """

    parameters: Mapping[str, np.ndarray]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    _constants: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _used: Counter[str] = field(default_factory=Counter)

    def add(
        self,
        scope: str,
        kind: str,
        inputs: Sequence[Value],
        outputs: int | list[Value],
        attributes: Any,
    ) -> list[Value]:
        """A new node, named by its module and operator; the values it gives."""
        name = f"{scope}/{kind}"
        self._used[name] += 1
        if self._used[name] > 1:
            name = f"{name}_{self._used[name]}"
        if isinstance(outputs, int):
            outputs = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs

    def constant(self, array: np.ndarray) -> Value:
        """An array ``[...]`` that is no parameter; equal ones are kept once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants)}"
            self.arrays[self._constants[key]] = array
        return self._constants[key]

    def model(
        self,
        inputs: Signature,
        outputs: Signature,
        name: str,
    ) -> onnx.ModelProto:
        """The finished graph."""

        def infos(values: Signature) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(v, *values[v]) for v in values]

        arrays = [numpy_helper.from_array(a, name) for name, a in self.arrays.items()]
        graph = helper.make_graph(self.nodes, name, infos(inputs), infos(outputs), arrays)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vits_jax",
        )


@dataclass(frozen=True)
class Scope:
    """A module's place in the graph, under its path in the network: ``enc_p.encoder``."""

    graph: Graph
    path: str = ""

    def __getitem__(self, part: str | int) -> Scope:
        """The place of a part: ``scope["convs"][0]``."""
        return Scope(self.graph, f"{self.path}.{part}" if self.path else str(part))

    def __contains__(self, parameter: str) -> bool:
        return f"{self.path}.{parameter}" in self.graph.parameters

    def array(self, name: str) -> np.ndarray:
        """One of the module's own parameters, of the shape it has in training."""
        return np.asarray(self.graph.parameters[f"{self.path}.{name}"])

    def parameter(self, name: str, array: np.ndarray | None = None) -> Value:
        """The same as a value; `array` ``[...]`` where it is kept in another form than trained."""
        key = f"{self.path}.{name}"
        self.graph.arrays[key] = np.ascontiguousarray(self.array(name) if array is None else array)
        return key

    def op(
        self, kind: str, *inputs: Value, output: Value | None = None, **attributes: Any
    ) -> Value:
        """A node of one output, named `output` where others must find it."""
        outputs = 1 if output is None else [output]
        return self.graph.add(self.path, kind, inputs, outputs, attributes)[0]

    def split(self, x: Value, sizes: Sequence[int], axis: int) -> list[Value]:
        """`x` cut along an axis."""
        inputs = (x, self.integers(*sizes))
        return self.graph.add(self.path, "Split", inputs, len(sizes), {"axis": axis})

    def number(self, value: float) -> Value:
        """A float32 constant, a scalar."""
        return self.graph.constant(np.asarray(value, np.float32))

    def integer(self, value: int) -> Value:
        """An int64 constant, a scalar."""
        return self.graph.constant(np.asarray(value, np.int64))

    def integers(self, *values: int) -> Value:
        """An int64 constant, a list: axes, sizes, a shape."""
        return self.graph.constant(np.asarray(values, np.int64))

    def size(self, x: Value, axis: int) -> Value:
        """Length of one axis of `x`, int64 ``[1]``."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def concat(self, *values: Value, axis: int) -> Value:
        """Values side by side; of lengths, a shape."""
        return self.op("Concat", *values, axis=axis)

    def cut(self, x: Value, start: int | Value, end: int | Value, axis: int) -> Value:
        """``x[start:end]`` along an axis; values are int64 ``[1]``."""
        first, last = (
            self.integers(bound) if isinstance(bound, int) else bound for bound in (start, end)
        )
        return self.op("Slice", x, first, last, self.integers(axis))
