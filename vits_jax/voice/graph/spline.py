"""The inverse of the rational-quadratic spline (Durkan et al. 2019, eq. 6 to 8)."""

from __future__ import annotations

import math

import numpy as np

from vits_jax.model.spline import MIN_DERIVATIVE, MIN_SIZE
from vits_jax.voice.graph.builder import Scope, Value


def inverse_spline(
    at: Scope, x: Value, sizes: Value, derivatives: Value, bins: int, tail_bound: float = 5.0
) -> Value:
    """Apply it element by element on [-bound, bound]; the identity outside.

    Args:
        x: inputs ``[B, P, 1]``.
        sizes: unnormalised widths and heights ``[B, P, 2, K]``.
        derivatives: unnormalised, at the inner knots, ``[B, P, K - 1]``.

    Returns:
        ``[B, P, 1]``.
    """

    def op(kind: str, *inputs: Value | float) -> Value:
        """Arithmetic, of values and numbers."""
        return at.op(kind, *(i if isinstance(i, str) else at.number(i) for i in inputs))

    inside = at.op("LessOrEqual", op("Abs", x), at.number(tail_bound))
    x_in = op("Where", inside, x, 0.0)

    edge = math.log(math.expm1(1 - MIN_DERIVATIVE))
    slopes = op("Pad", derivatives, at.integers(0, 0, 1, 0, 0, 1), edge)
    slopes = op("Add", op("Softplus", slopes), MIN_DERIVATIVE)  # [B, P, K + 1]
    knots = _knots(at, sizes, bins, tail_bound)  # [B, P, 2, K + 1]
    before, after = at.cut(knots, 0, bins, axis=3), at.cut(knots, 1, bins + 1, axis=3)
    y_before, y_after = (
        op("Squeeze", at.cut(k, 1, 2, axis=2), at.integers(2)) for k in (before, after)
    )

    # The bin as a mask. The search's last edge is 1e-6 further out, for x at the bound itself:
    # no x lies beyond it, so the last bin needs no upper edge at all.
    above = at.op("GreaterOrEqual", x_in, y_before)
    beyond = at.op("GreaterOrEqual", x_in, y_after)
    beyond = at.op("And", beyond, at.graph.constant(_all_but_last(bins)))
    chosen = at.op("And", above, at.op("Not", beyond))  # [B, P, K]
    chosen = at.op("Unsqueeze", at.op("Cast", chosen, to=1), at.integers(3))

    # Everything of the bin at once: [B, P, rows, K] times [B, P, K, 1].
    rows = at.concat(
        before,
        at.op("Sub", after, before),
        *(op("Unsqueeze", at.cut(slopes, i, i + bins, axis=2), at.integers(2)) for i in range(2)),
        axis=2,
    )
    picked = at.op("Squeeze", at.op("MatMul", rows, chosen), at.integers(3))  # [B, P, 6]
    x0, y0, w, h, d0, d1 = at.split(picked, [1] * 6, axis=2)

    s = op("Div", h, w)
    bend = op("Sub", op("Add", d0, d1), op("Mul", s, 2.0))
    rise = op("Sub", x_in, y0)
    rise_bend = op("Mul", rise, bend)
    a = op("Add", rise_bend, op("Mul", h, op("Sub", s, d0)))
    b = op("Sub", op("Mul", h, d0), rise_bend)
    c = op("Neg", op("Mul", s, rise))
    discriminant = op("Sub", op("Mul", b, b), op("Mul", op("Mul", a, c), 4.0))
    # Rounding may push the discriminant of a monotonic spline just below zero.
    root = op("Sqrt", op("Max", discriminant, 0.0))
    t = op("Div", op("Mul", c, 2.0), op("Sub", op("Neg", b), root))
    return op("Where", inside, op("Add", op("Mul", t, w), x0), x)


def _all_but_last(bins: int) -> np.ndarray:
    return np.arange(bins) < bins - 1


def _knots(at: Scope, sizes: Value, bins: int, bound: float) -> Value:
    """K + 1 knots over [-bound, bound]: ``[..., K]`` to ``[..., K + 1]``."""
    shares = at.op("Mul", at.op("Softmax", sizes, axis=-1), at.number(1 - MIN_SIZE * bins))
    shares = at.op("Add", shares, at.number(MIN_SIZE))
    ends = at.op("CumSum", at.cut(shares, 0, bins - 1, axis=3), at.integer(3))
    inner = at.op("Sub", at.op("Mul", ends, at.number(2 * bound)), at.number(bound))
    first, last = (0, 0, 0, 1, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0, 0, 1)
    knots = at.op("Pad", inner, at.integers(*first), at.number(-bound))
    return at.op("Pad", knots, at.integers(*last), at.number(bound))
