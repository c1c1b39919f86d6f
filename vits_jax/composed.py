"""Functions made of pieces, each of which is compiled for itself, and what they are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.stages import Compiled, Traced, Wrapped

from vits_jax.compilation import no_garbage_collection
from vits_jax.device_memory import Needs

Shape = tuple[int, ...]  # of a batch: (rows, phonemes, frames)


class Call(Protocol):
    """How a composed function calls one of its pieces."""

    def __call__(self, name: str, *arguments: Any) -> Any: ...


class Function(NamedTuple):
    """A jitted piece, what of a batch's shape it is compiled for, and its static arguments."""

    jitted: Wrapped
    of: Callable[[Shape], Shape]
    static: Mapping[str, Any] = MappingProxyType({})

    def __call__(self, *arguments: Any) -> Any:
        """Compiled when it is called."""
        return self.jitted(*arguments, **self.static)


def of_shape(shape: Shape) -> Shape:
    """Compiled for each shape."""
    return shape


def of_text(shape: Shape) -> Shape:
    """Compiled for each number of rows and of phonemes."""
    return shape[:2]


def of_rows(shape: Shape) -> Shape:
    """Compiled for each number of rows."""
    return shape[:1]


def of_nothing(shape: Shape) -> Shape:
    """Compiled once."""
    del shape
    return ()


@dataclass(frozen=True, eq=False)
class Composed:
    """``compose(call, *arguments)``, which calls its jitted `functions` by their names.

    It looks into no array: it is also called with shapes alone, to find what to compile.
    """

    compose: Callable[..., Any]
    functions: Mapping[str, Function]

    def __call__(self, *arguments: Any) -> Any:
        """Call; inside `jax.jit` all of it becomes one program."""
        return self.compose(lambda name, *own: self.functions[name](*own), *arguments)

    @classmethod
    def alone(cls, jitted: Wrapped, **static: Any) -> Composed:
        """Of one piece."""
        function = Function(jitted, of_shape, static)
        return cls(lambda call, *arguments: call("all", *arguments), {"all": function})


class Piece(NamedTuple):
    """A call of a composed function, traced."""

    name: str
    key: Shape  # what it was traced for
    traced: Traced
    taken: list[Any]  # leaves of its arguments ...
    given: list[Any]  # ... and of its results: one object for one array


def trace(
    composed: Composed,
    shape: Shape,
    arguments: Sequence[Any],
    found: Callable[[Piece], None] = lambda piece: None,
) -> list[Piece]:
    """The pieces that a call would run, in order; nothing is compiled.

    Args:
        composed: the function.
        shape: that the arguments stand for.
        arguments: arrays, or `jax.ShapeDtypeStruct`s with shardings.
        found: is called with each, before the next one is traced.
    """
    pieces: list[Piece] = []
    traced: dict[str, Traced] = {}

    def call(name: str, *own: Any) -> Any:
        function = composed.functions[name]
        if name not in traced:
            with no_garbage_collection():
                traced[name] = function.jitted.trace(*own, **function.static)
        given = jax.tree.map(_as_argument, traced[name].out_info)
        leaves = jax.tree.leaves(own), jax.tree.leaves(given)
        pieces.append(Piece(name, function.of(shape), traced[name], *leaves))
        found(pieces[-1])
        return given

    composed.compose(call, *arguments)
    return pieces


def _as_argument(result: Any) -> jax.ShapeDtypeStruct:
    """An object of its own for each result."""
    return jax.ShapeDtypeStruct(result.shape, result.dtype)


def memory(pieces: Sequence[Piece], programs: Mapping[str, Compiled], devices: int) -> Needs | None:
    """What a device needs at most, while the pieces run one after another; None if none tells.

    Args:
        pieces: of one call.
        programs: the compiled pieces, by name.
        devices: that rows are spread over; what one piece gives to another lies in rows.
    """
    sizes = {}
    for name, program in programs.items():
        size = program.memory_analysis()
        if size is None:
            return None
        sizes[name] = size.temp_size_in_bytes + size.output_size_in_bytes
        sizes[name] -= size.alias_size_in_bytes  # results that lie where an argument was
    last = {id(leaf): i for i, piece in enumerate(pieces) for leaf in piece.taken}
    given = {id(leaf) for piece in pieces for leaf in piece.given}
    outside = {id(x): _bytes(x) for p in pieces for x in p.taken if id(x) not in given}
    between: dict[int, float] = {}  # results that are still to be read
    most = 0.0
    for i, piece in enumerate(pieces):
        most = max(most, sum(outside.values()) + sum(between.values()) + sizes[piece.name])
        between |= {id(x): _bytes(x) / devices for x in piece.given}
        between = {leaf: size for leaf, size in between.items() if last.get(leaf, -1) > i}
    (device, *_) = sorted(
        jax.tree.leaves(next(iter(programs.values())).output_shardings)[0].device_set,
        # One of this process, if it has one: others cannot be asked for what they have.
        key=lambda device: (device.process_index != jax.process_index(), device.id),
    )
    return Needs(round(most), device)


def _bytes(leaf: Any) -> float:
    """On one device."""
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return math.prod(shape) * (8 if keys else leaf.dtype.itemsize)
