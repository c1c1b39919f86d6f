"""WN: the gated convolutions of WaveNet, used by the posterior encoder and the flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.model.forms import forms
from vits_jax.model.layers import WeightNormConv1d
from vits_jax.model.repeated import Index, repeat


class WN(nnx.Module):
    """Non-causal WaveNet residual blocks with global conditioning (van den Oord et al. 2016).

    Piper uses dilation 1 everywhere.
    """

    def __init__(self, hidden: int, k: int, n_layers: int, gin_channels: int, *, rngs: nnx.Rngs):
        self.hidden = hidden
        widths = [2 * hidden] * (n_layers - 1) + [hidden]  # the last layer has no residual
        self.in_layers = nnx.List(
            [WeightNormConv1d(hidden, 2 * hidden, k, rngs=rngs) for _ in widths]
        )
        self.res_skip_layers = nnx.List(
            [WeightNormConv1d(hidden, width, rngs=rngs) for width in widths]
        )
        self.cond_layer = (
            WeightNormConv1d(gin_channels, 2 * hidden * n_layers, rngs=rngs)
            if gin_channels
            else None
        )

    def __call__(self, x: jax.Array, mask: jax.Array, g: jax.Array | None) -> jax.Array:
        """``x [B, T, H]``, ``mask [B, T, 1]``, ``g [B, 1, G]`` to ``[B, T, H]``."""
        n_layers = len(self.in_layers)
        conditions = None  # [n_layers, B, 1, 2H]
        if g is not None and self.cond_layer is not None:
            conditions = jnp.stack(jnp.split(self.cond_layer(g), n_layers, axis=2))

        def gated(in_layer: WeightNormConv1d, x: jax.Array, i: Index) -> jax.Array:
            y = in_layer(x)
            y = y if conditions is None else y + conditions[i]
            return jax.checkpoint(_gate)(y) if forms().recomputed else _gate(y)

        def block(
            layers: tuple[WeightNormConv1d, WeightNormConv1d],
            xs: tuple[jax.Array, jax.Array],
            i: Index,
        ) -> tuple[jax.Array, jax.Array]:
            (in_layer, res_skip_layer), (x, skips) = layers, xs
            y = res_skip_layer(gated(in_layer, x, i))
            return (x + y[:, :, : self.hidden]) * mask, skips + y[:, :, self.hidden :]

        *layers, last = zip(self.in_layers, self.res_skip_layers)
        x, skips = repeat(layers, (x, jnp.zeros_like(x)), block)
        return (skips + last[1](gated(last[0], x, n_layers - 1))) * mask


def _gate(y: jax.Array) -> jax.Array:
    """``[B, T, 2H]`` to ``[B, T, H]``."""
    a, b = jnp.split(y, 2, axis=2)
    return jnp.tanh(a) * jax.nn.sigmoid(b)
