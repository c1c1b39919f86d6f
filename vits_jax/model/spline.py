"""Monotonic rational-quadratic spline (Durkan et al. 2019, "Neural Spline Flows")."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

MIN_SIZE = 1e-3  # of a bin, as a share of the interval
MIN_DERIVATIVE = 1e-3


def rational_quadratic_spline(
    x: jax.Array,
    widths: jax.Array,
    heights: jax.Array,
    derivatives: jax.Array,
    *,
    inverse: bool = False,
    tail_bound: float = 5.0,
) -> tuple[jax.Array, jax.Array]:
    """Apply the spline element by element on [-bound, bound]; the identity outside.

    Args:
        x: inputs, any shape ``[...]``.
        widths, heights: unnormalised, ``[..., K]``.
        derivatives: unnormalised, at the K - 1 inner knots, ``[..., K - 1]``; the outer
            ones are fixed so that the slope meets the identity's.
        inverse: apply the inverse function (eq. 6 to 8).

    Returns:
        outputs and log |derivative|, both ``[...]``.
    """
    inside = (x >= -tail_bound) & (x <= tail_bound)
    # Outside, both branches of the final `where` need finite values and gradients.
    x_in = jnp.where(inside, x, 0.0)

    edge = math.log(math.expm1(1 - MIN_DERIVATIVE))
    pad = [(0, 0)] * (derivatives.ndim - 1) + [(1, 1)]
    slopes = MIN_DERIVATIVE + jax.nn.softplus(jnp.pad(derivatives, pad, constant_values=edge))
    x_knots, x_sizes = _knots(widths, tail_bound)
    y_knots, y_sizes = _knots(heights, tail_bound)

    # The bin as a mask: picking by a product is cheaper than a gather, forwards and back.
    knots = (y_knots if inverse else x_knots).at[..., -1].add(1e-6)
    above = x_in[..., None] >= knots
    chosen = (above[..., :-1] & ~above[..., 1:]).astype(x.dtype)  # [..., K]

    def pick(values: jax.Array) -> jax.Array:
        return jnp.sum(values * chosen, axis=-1)

    x0, w = pick(x_knots[..., :-1]), pick(x_sizes)
    y0, h = pick(y_knots[..., :-1]), pick(y_sizes)
    d0, d1 = pick(slopes[..., :-1]), pick(slopes[..., 1:])
    s = h / w
    bend = d0 + d1 - 2 * s

    if inverse:
        rise = x_in - y0
        a = rise * bend + h * (s - d0)
        b = h * d0 - rise * bend
        c = -s * rise
        # Rounding may push the discriminant of a monotonic spline just below zero.
        t = 2 * c / (-b - jnp.sqrt(jnp.maximum(b * b - 4 * a * c, 0.0)))
        y = t * w + x0
    else:
        t = (x_in - x0) / w
        y = y0 + h * (s * t * t + d0 * t * (1 - t)) / (s + bend * t * (1 - t))

    denominator = s + bend * t * (1 - t)
    numerator = s * s * (d1 * t * t + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2)
    log_slope = jnp.log(numerator) - 2 * jnp.log(denominator)
    y = jnp.where(inside, y, x)
    return y, jnp.where(inside, -log_slope if inverse else log_slope, 0.0)


def _knots(sizes: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """K + 1 knots over [-bound, bound] and the K bin sizes between them."""
    n = sizes.shape[-1]
    shares = MIN_SIZE + (1 - MIN_SIZE * n) * jax.nn.softmax(sizes, axis=-1)
    inner = 2 * bound * jnp.cumsum(shares, axis=-1)[..., :-1] - bound
    pad = [(0, 0)] * (sizes.ndim - 1)
    knots = jnp.pad(inner, [*pad, (1, 0)], constant_values=-bound)
    knots = jnp.pad(knots, [*pad, (0, 1)], constant_values=bound)
    return knots, jnp.diff(knots, axis=-1)
