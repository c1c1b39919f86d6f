"""Normalising flow between posterior and prior: volume-preserving couplings (VITS, 2.1.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.config import ModelConfig
from vits_jax.model.layers import Conv1d
from vits_jax.model.wavenet import WN

N_FLOWS = 4


class Flip(nnx.Module):
    """Stands for the reversed channels after each coupling: no parameters, but a number."""


class ResidualCouplingLayer(nnx.Module):
    """Shifts the second half of the channels by a function of the first (mean only)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden, half = config.hidden_channels, config.inter_channels // 2
        self.pre = Conv1d(half, hidden, rngs=rngs)
        self.enc = WN(hidden, 5, 4, config.gin_channels, rngs=rngs)
        self.post = Conv1d(hidden, half, init="zeros", rngs=rngs)

    def __call__(
        self, x: jax.Array, mask: jax.Array, g: jax.Array | None, *, reverse: bool
    ) -> jax.Array:
        x0, x1 = jnp.split(x, 2, axis=2)
        m = self.post(self.enc(self.pre(x0) * mask, mask, g)) * mask
        x1 = (x1 - m) * mask if reverse else m + x1 * mask
        return jnp.concatenate([x0, x1], axis=2)


class ResidualCouplingBlock(nnx.Module):
    """Couplings with the channels reversed after each; the log-determinant is zero."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.flows: nnx.List[ResidualCouplingLayer | Flip] = nnx.List()
        for _ in range(N_FLOWS):
            self.flows.append(ResidualCouplingLayer(config, rngs=rngs))
            self.flows.append(Flip())

    def __call__(
        self, x: jax.Array, mask: jax.Array, g: jax.Array | None, *, reverse: bool = False
    ) -> jax.Array:
        """``x [B, F, C]``, ``mask [B, F, 1]``, ``g [B, 1, G]`` to ``[B, F, C]``."""
        couplings = [flow for flow in self.flows if isinstance(flow, ResidualCouplingLayer)]
        if reverse:
            for coupling in couplings[::-1]:
                x = coupling(jnp.flip(x, axis=2), mask, g, reverse=True)
        else:
            for coupling in couplings:
                x = jnp.flip(coupling(x, mask, g, reverse=False), axis=2)
        return x
