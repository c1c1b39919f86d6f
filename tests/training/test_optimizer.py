"""Clipping of gradients, as PyTorch does it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from vits_jax.training import optimizer

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
