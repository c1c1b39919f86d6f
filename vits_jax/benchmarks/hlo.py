"""What a compiled program consists of, read from its text (optimised HLO).

An operation here is what a device is told to do at once: a kernel of a GPU, a fusion of a TPU.
Bytes are those of operands and results as they lie in memory, so of a TPU's tiles with their
padding; of what is only sliced or updated in place, those of the slice. What an operation keeps
on the chip is not known here.
"""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

# Told to the device, but no work: names for memory, and the frame of the program.
_FREE = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "replica-id",
        "opt-barrier",
        "iota",
        "while",
        "conditional",
        "call",
        "async-start",
        "async-update",
        "async-done",
        "copy-done",
        "all-reduce-done",
        "all-gather-done",
        "collective-permute-done",
        "domain",
        "add-dependency",
    }
)
_ALLOCATES = "AllocateBuffer"  # a TPU's name for memory that nothing is written to yet

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z\-]*)\(")
_OPERAND = re.compile(r"%([\w.\-]+)")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BODY, _CONDITION = (re.compile(rf"\b{word}=%?([\w.\-]+)") for word in ("body", "condition"))
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_NAME = re.compile(r'op_name="([^"]*)"')
_WINDOW = re.compile(r"window=\{size=([\dx]+)")


@dataclass(frozen=True)
class Operation:
    """One of a program.

    Attributes:
        kind: its opcode, such as ``"fusion"``; of a library's, ``"call <target>"``.
        scope: where in the source it comes from (`jax.named_scope`).
        bytes: of its operands and its result, each time.
        times: how often it runs; more than once inside a loop.
        window: the longest side of a convolution's, in samples; 0 of anything else.
    """

    kind: str
    scope: str
    bytes: int
    times: int
    window: int


@dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    bytes: int  # of its result
    operands: tuple[str, ...]
    rest: str


_Program = dict[str, list[_Instruction]]


def operations(text: str) -> list[Operation]:
    """Of a program's text, `jax.stages.Compiled.as_text`."""
    program, entry = _parsed(text)
    return list(_walk(program, entry, 1))


def turns(text: str) -> int:
    """Of all loops of a program together, each of which waits for the one before."""
    program, entry = _parsed(text)
    return _turns(program, entry, 1)


def _parsed(text: str) -> tuple[_Program, str]:
    program: _Program = {}
    entry = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            instructions = program[match[2]] = []
            entry = match[2] if match[1] else entry
        elif (match := _INSTRUCTION.match(line)) and (opcode := _OPCODE.search(match[2])):
            result, rest = match[2][: opcode.start(1)], match[2][opcode.end() :]
            operands = tuple(_OPERAND.findall(rest.partition(")")[0]))
            instructions.append(_Instruction(match[1], opcode[1], _bytes(result), operands, rest))
    return program, entry


def _turns(program: _Program, name: str, times: int) -> int:
    found = 0
    for it in program[name]:
        if it.opcode == "while" and (body := _BODY.search(it.rest)):
            inner = times * _trips(program, it.rest)
            found += inner + _turns(program, body[1], inner)
        elif it.opcode in ("call", "conditional"):
            found += sum(_turns(program, called, times) for called in _CALLED.findall(it.rest))
    return found


def _walk(program: _Program, name: str, times: int) -> Iterator[Operation]:
    sizes: dict[str, int] = {}
    for it in program[name]:
        sizes[it.name] = it.bytes
        if it.opcode == "while" and (body := _BODY.search(it.rest)):
            yield from _walk(program, body[1], times * _trips(program, it.rest))
        elif it.opcode in ("call", "conditional"):
            for called in _CALLED.findall(it.rest):
                yield from _walk(program, called, times)
        target = _TARGET.search(it.rest) if it.opcode == "custom-call" else None
        if it.opcode in _FREE or (target and target[1] == _ALLOCATES):
            continue
        called = _CALLED.search(it.rest) if it.opcode == "fusion" else None
        inner = program[called[1]] if called else []
        windows = [w for i in (it, *inner) for w in _WINDOW.findall(i.rest)]
        scope = _NAME.search(it.rest)
        yield Operation(
            kind=f"call {target[1]}" if target else it.opcode,
            scope=scope[1] if scope else "",
            bytes=_moved(program, it, sizes, inner),
            times=times,
            window=max((int(side) for w in windows for side in w.split("x")), default=0),
        )


def _trips(program: _Program, rest: str) -> int:
    """How often a loop turns: as the compiler says, or by the number that it counts up to."""
    if known := _TRIPS.search(rest):
        return int(known[1])
    condition = _CONDITION.search(rest)
    lines = program[condition[1]] if condition else []
    limits = [i.rest.partition(")")[0] for i in lines if i.opcode == "constant" and i.bytes < 1024]
    numbers = [int(limit) for limit in limits if limit.isdigit()]
    return numbers[0] if len(numbers) == 1 else 1


def _moved(
    program: _Program, it: _Instruction, sizes: dict[str, int], inner: list[_Instruction]
) -> int:
    """Bytes that an operation reads and writes."""
    read = [sizes.get(operand, 0) for operand in it.operands]
    if it.opcode in ("slice", "dynamic-slice"):
        return 2 * it.bytes
    if it.opcode == "dynamic-update-slice":
        return 2 * read[1]
    written = it.bytes
    if inner:
        slices, spared = _slices(program, inner)
        read = [min(size, slices.get(number, size)) for number, size in enumerate(read)]
        written = max(written - spared, 0)
    return written + sum(dict(zip(it.operands, read)).values())


def _slices(program: _Program, inner: list[_Instruction]) -> tuple[dict[int, int], int]:
    """Of a fusion: what is read of each parameter that it only slices or updates, in bytes; and
    by how much less is written than its results take, as they are updated in place."""
    origin: dict[str, str] = {}  # through names for the same memory
    size = {i.name: i.bytes for i in inner}
    pieces: defaultdict[str, int] = defaultdict(int)
    whole: set[str] = set()
    spared = 0
    for it in inner:
        sources = [origin.get(operand, operand) for operand in it.operands]
        if it.opcode == "bitcast" and sources:
            origin[it.name] = sources[0]
            continue
        if it.opcode in ("slice", "dynamic-slice", "dynamic-update-slice"):
            updates = it.opcode == "dynamic-update-slice"
            pieces[sources[0]] += 0 if updates else it.bytes
            spared += it.bytes - size.get(it.operands[1], 0) if updates else 0
            sources = sources[1:]
        elif it.opcode == "fusion" and (called := _CALLED.search(it.rest)):
            nested, less = _slices(program, program[called[1]])
            spared += less
            for number, piece in nested.items():
                pieces[sources[number]] += piece
            sources = [source for number, source in enumerate(sources) if number not in nested]
        whole |= set(sources)
    parameters = {i.name: int(i.rest.partition(")")[0]) for i in inner if i.opcode == "parameter"}
    return {parameters[n]: b for n, b in pieces.items() if n in parameters.keys() - whole}, spared


def _bytes(shapes: str) -> int:
    return sum(_size(*match.groups()) for match in _SHAPE.finditer(shapes))


@functools.lru_cache(maxsize=1 << 16)
def _size(kind: str, dimensions: str, layout: str | None) -> int:
    bits = re.search(r"\d+", kind)
    width = 8 if kind == "pred" else int(bits[0]) if bits else 0
    sizes = [int(n) for n in dimensions.split(",") if n]
    order, _, rest = (layout or "").partition(":")
    if tile := _TILE.search(rest):
        minor_first = [int(n) for n in order.split(",") if n]
        for side, axis in zip(reversed(tile[1].split(",")), minor_first):
            sizes[axis] = -(-sizes[axis] // int(side)) * int(side)
    return math.prod(sizes) * width // 8
