"""Gradients summed and clipped, and what AdamW makes of them, as PyTorch does it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.sharding import PartitionSpec as P

from vits_jax.training import optimizer
from vits_jax.training.gradients import JOINED, joined, parted, summed
from vits_jax.training.mesh import make_mesh

GRADIENTS = {"a": np.array([[3.0, -4.0]], np.float32), "b": np.array([12.0, 0.0], np.float32)}


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("most", [1.0, 5.0, 100.0])
def test_clipping_is_pytorchs(algorithm: str, most: float) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(g.shape)) for g in GRADIENTS.values()]
    for parameter, gradient in zip(parameters, GRADIENTS.values()):
        parameter.grad = torch.tensor(gradient)
    if algorithm == "norm":
        torch.nn.utils.clip_grad_norm_(parameters, most)
    else:
        torch.nn.utils.clip_grad_value_(parameters, most)
    gradients = {name: jnp.asarray(g) for name, g in GRADIENTS.items()}
    clipped = optimizer.clip(gradients, optax.tree.norm(gradients), most, algorithm)
    for got, expected in zip(clipped.values(), parameters, strict=True):
        assert expected.grad is not None
        np.testing.assert_allclose(got, expected.grad.numpy(), rtol=1e-6)


def test_updates_are_pytorchs() -> None:
    """Three steps in float64, to rounding."""
    betas, rate, decay = (0.8, 0.99), 0.3, 0.1
    random = np.random.default_rng(0)
    values = {name: random.normal(size=g.shape) for name, g in GRADIENTS.items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(v)) for name, v in values.items()}
    adamw = torch.optim.AdamW(theirs.values(), rate, betas, 1e-9, decay)
    with jax.enable_x64(True):
        ours = {name: jnp.asarray(v) for name, v in values.items()}
        state = optax.scale_by_adam().init(ours)._asdict()
        for _ in range(3):
            gradients = {name: random.normal(size=v.shape) for name, v in values.items()}
            for name, parameter in theirs.items():
                parameter.grad = torch.tensor(gradients[name])
            adamw.step()
            ours, state = updated(ours, gradients, state, betas, rate, decay, True)
    assert state["count"] == 3
    for name, parameter in theirs.items():
        np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=1e-12)


def test_factors_are_pytorchs_groups() -> None:
    """Of the learning rate, so of the decay too; a factor of 0 keeps every bit."""
    betas, rate, decay = (0.8, 0.99), 0.3, 0.1
    random = np.random.default_rng(0)
    values = {name: random.normal(size=g.shape) for name, g in GRADIENTS.items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(v)) for name, v in values.items()}
    groups = [{"params": [theirs["a"]], "lr": 0.1 * rate}, {"params": [theirs["b"]], "lr": 0.0}]
    adamw = torch.optim.AdamW(groups, rate, betas, 1e-9, decay)
    with jax.enable_x64(True):
        ours = {name: jnp.asarray(v) for name, v in values.items()}
        state = optax.scale_by_adam().init(ours)._asdict()
        factors = {"a": jnp.float64(0.1), "b": jnp.float64(0.0)}
        for _ in range(3):
            gradients = {name: random.normal(size=v.shape) for name, v in values.items()}
            for name, parameter in theirs.items():
                parameter.grad = torch.tensor(gradients[name])
            adamw.step()
            ours, state = updated(ours, gradients, state, betas, rate, decay, True, factors)
    np.testing.assert_allclose(ours["a"], theirs["a"].detach().numpy(), rtol=1e-12)
    np.testing.assert_array_equal(ours["b"], values["b"])


def updated(
    parameters: Any,
    gradients: Any,
    state: Any,
    betas: Any,
    rate: float,
    decay: float,
    apply: bool,
    factors: Any = None,
) -> Any:
    return optimizer.update(
        parameters,
        {name: jnp.asarray(g) for name, g in gradients.items()},
        state,
        learning_rate=jnp.asarray(rate),
        betas=betas,
        eps=1e-9,
        weight_decay=decay,
        apply=jnp.asarray(apply),
        factors=factors,
    )


def test_a_step_that_is_none_changes_no_number() -> None:
    """Not the zeros' signs even: a run that goes on is compared bit for bit."""
    parameters = {"a": jnp.asarray([1.5, -0.0, 1e-30], jnp.float32)}
    moments = {"a": jnp.asarray([0.1, 3.0, 1e-37], jnp.float32)}
    state = {"count": jnp.asarray(7, jnp.int32), "mu": moments, "nu": moments}
    gradients = {"a": jnp.asarray([np.nan, np.inf, -np.inf], jnp.float32)}
    got = updated(parameters, gradients, state, (0.8, 0.99), 2e-4, 0.01, False)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves((parameters, state)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("platform", list(JOINED))
@pytest.mark.parametrize("size", [1, 4])
def test_gradients_are_summed_over_the_devices(platform: str, size: int) -> None:
    """Joined to a vector or one by one: tensors below and above every limit, in two parts.

    What is in both parts, "shared", is added.
    """
    large = {"large": (3, 41, 97)} if platform != "gpu" else {"large": (3, 701, 503)}
    shapes = {**large, "bias": (5,), "number": (), "weight": (7, 2, 3), "shared": (4, 2)}
    of_parts = (("large", "bias", "shared"), ("number", "shared", "weight"))
    random = np.random.default_rng(0)
    each = {n: random.normal(size=(size, *s)).astype(np.float32) for n, s in shapes.items()}
    mesh = make_mesh(size, "cpu")

    def one_device(gradients: Any) -> Any:
        own = {name: g[0] for name, g in gradients.items()}
        parts = [{name: own[name] for name in names} for names in of_parts]
        sums, norm = summed([joined(part, platform, ("shared",)) for part in parts], "data")
        result: dict[str, Any] = {}
        for pieces, part in zip(sums, parts, strict=True):
            result |= parted(pieces, part, platform, ("shared",))
        return result, norm

    whole = jax.shard_map(one_device, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
    got, norm = jax.jit(whole)(each)
    assert got.keys() == shapes.keys()
    # Not in place: devices may still be reading the arrays that they were given.
    each = each | {"shared": 2 * each["shared"]}
    for name, array in each.items():
        assert got[name].shape == shapes[name]
        np.testing.assert_allclose(got[name], array.sum(0), rtol=1e-5, atol=1e-6, err_msg=name)
    squares = sum(float((array.sum(0) ** 2).sum()) for array in each.values())
    assert float(norm) == pytest.approx(squares**0.5, rel=1e-5)
