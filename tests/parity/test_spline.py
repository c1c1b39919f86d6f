"""The duration flow's spline against Piper's: both directions, tails, and on the knots."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from piper.train.vits.transforms import piecewise_rational_quadratic_transform

from tests.parity.comparing import assert_close
from vits_jax.model.spline import rational_quadratic_spline

N, BINS = 400, 10


def shapes(dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unnormalised widths, heights, derivatives of N splines."""
    rng = np.random.default_rng(0)
    return tuple(rng.normal(0, 1, (N, n)).astype(dtype) for n in (BINS, BINS, BINS - 1))


def theirs(x: np.ndarray, inverse: bool) -> tuple[np.ndarray, np.ndarray]:
    y, log_slope = piecewise_rational_quadratic_transform(
        torch.tensor(x),
        *map(torch.tensor, shapes(x.dtype)),
        inverse=inverse,
        tails="linear",
        tail_bound=5.0,
    )
    return y.numpy(), log_slope.numpy()


def ours(x: np.ndarray, inverse: bool) -> tuple[jax.Array, jax.Array]:
    return jax.jit(rational_quadratic_spline, static_argnames="inverse")(
        x, *shapes(x.dtype), inverse=inverse
    )


@pytest.mark.parametrize("inverse", [False, True])
def test_inside_and_outside(inverse: bool) -> None:
    x = np.random.default_rng(1).uniform(-8, 8, N).astype(np.float32)
    assert (np.abs(x) > 5).any() and (np.abs(x) < 5).any()
    for got, expected in zip(ours(x, inverse), theirs(x, inverse), strict=True):
        assert_close(got, expected, 1e-5)
    outside = np.abs(x) > 5
    np.testing.assert_array_equal(np.asarray(ours(x, inverse)[0])[outside], x[outside])


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("edge", [-5.0, 5.0, np.nextafter(5.0, 6), np.nextafter(-5.0, -6)])
def test_on_the_bounds(edge: float, inverse: bool, x64: None) -> None:
    x = np.full(N, edge)
    for got, expected in zip(ours(x, inverse), theirs(x, inverse), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_on_the_inner_knots(inverse: bool, x64: None) -> None:
    """A knot belongs to the bin on its right; the slope there is the knot's own from both."""
    sizes = shapes(np.float64)[1 if inverse else 0]
    shares = np.exp(sizes) / np.exp(sizes).sum(1, keepdims=True)
    knots = 10 * np.cumsum(1e-3 + (1 - 1e-3 * BINS) * shares, axis=1) - 5
    for knot in (0, 4, BINS - 2):
        x = knots[:, knot].copy()
        for got, expected in zip(ours(x, inverse), theirs(x, inverse), strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def test_inverse_undoes_forward(x64: None) -> None:
    x = np.random.default_rng(1).uniform(-6, 6, N)
    y, log_slope = ours(x, inverse=False)
    back, log_slope_back = ours(np.asarray(y), inverse=True)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(log_slope, -log_slope_back, atol=1e-8)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients(inverse: bool, x64: None) -> None:
    x = np.random.default_rng(1).uniform(-8, 8, N)
    arguments = (x, *shapes(np.float64))

    def total(*arguments: jax.Array) -> jax.Array:
        y, log_slope = rational_quadratic_spline(*arguments, inverse=inverse)
        return jnp.sum(jnp.sin(y) + log_slope * log_slope)

    got = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(*arguments)
    tensors = [torch.tensor(a, requires_grad=True) for a in arguments]
    y, log_slope = piecewise_rational_quadratic_transform(
        *tensors, inverse=inverse, tails="linear", tail_bound=5.0
    )
    (y.sin() + log_slope * log_slope).sum().backward()
    for ours_, theirs_ in zip(got, tensors, strict=True):
        assert_close(ours_, theirs_.grad.numpy(), 1e-10)
