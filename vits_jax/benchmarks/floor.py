"""The least that a step could cost: arithmetic and bytes of its products, part by part.

Convolutions and matrix products are nearly all of the arithmetic. Were everything between
them fused into them, each would read its operands and write its result once, and nothing else
would touch memory but AdamW, which reads and writes parameters and moments.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vits_jax.chips import Chip

PARTS = (
    "spectrogram",
    "text_encoder",
    "posterior_encoder",
    "flow",
    "alignment",
    "durations",
    "decoder",
    "generator_losses",
    *(f"discriminator_{i}" for i in range(9)),  # the last three with --use-mrd
    "adversarial_losses",
    "discriminator_loss",
    "optimizer",
)
"""What `jax.named_scope` calls the parts of a step; all else is "other"."""

_PART = re.compile("|".join(rf"\b{part}(?![a-z0-9])" for part in PARTS))


def part_of(scope: str) -> str:
    """The part that an operation belongs to, by the name of its scope."""
    match = _PART.search(scope)
    return match[0] if match else "other"


@dataclass
class Cost:
    """Of one part of a program, or of the whole."""

    flops: float = 0.0
    bytes: float = 0.0
    products: int = 0

    def seconds(self, chip: Chip) -> float:
        """At the chip's peaks, the slower of the two."""
        return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


def floor(*jaxprs: Any, parameters: int = 0) -> dict[str, Cost]:
    """Of each part of traced programs (`jax.stages.Traced.jaxpr`) that run one after another.

    Args:
        jaxprs: what was traced; of a function under `shard_map`, one device's share counts.
        parameters: numbers that AdamW updates, in float32.
    """
    parts: dict[str, Cost] = {}
    products = (_products(getattr(jaxpr, "jaxpr", jaxpr), "", 1) for jaxpr in jaxprs)
    for scope, equation, times in itertools.chain.from_iterable(products):
        cost = parts.setdefault(part_of(scope), Cost())
        cost.flops += times * _flops(equation)
        cost.bytes += times * sum(_bytes(v.aval) for v in [*equation.invars, *equation.outvars])
        cost.products += times
    if parameters:
        # Gradient, parameter and both moments are read, the last three are written.
        parts["optimizer"] = Cost(bytes=7 * 4 * parameters)
    return parts


def _products(jaxpr: Any, outer: str, times: int) -> Iterator[tuple[str, Any, int]]:
    for equation in jaxpr.eqns:
        scope = f"{outer}/{equation.source_info.name_stack}"
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield scope, equation, times
        inner_times = times * equation.params.get("length", 1) if _loops(equation) else times
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _products(inner, scope, inner_times)


def _loops(equation: Any) -> bool:
    return bool(equation.primitive.name == "scan")


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * np.dtype(aval.dtype).itemsize


def _flops(equation: Any) -> float:
    out = math.prod(equation.outvars[0].aval.shape)
    left, right = (v.aval.shape for v in equation.invars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * out * math.prod(left[axis] for axis in contracted)
    numbers = equation.params["dimension_numbers"].rhs_spec  # out, in, then the window
    window = math.prod(right[axis] for axis in numbers[2:])
    # Zeros that a dilated signal is filled up with are no work.
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2.0 * out * right[numbers[1]] * window / zeros
