"""WN: the gated convolutions of WaveNet, used by the posterior encoder and the flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.model.layers import WeightNormConv1d
from vits_jax.model.parameters import apply_in_turn


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

        def gated(
            in_layer: WeightNormConv1d, x: jax.Array, condition: jax.Array | None
        ) -> jax.Array:
            y = in_layer(x)
            if condition is not None:
                y = y + condition
            return jnp.tanh(y[:, :, : self.hidden]) * jax.nn.sigmoid(y[:, :, self.hidden :])

        def layer(
            convs: tuple[WeightNormConv1d, WeightNormConv1d],
            carry: tuple[jax.Array, jax.Array],
            condition: jax.Array | None,
        ) -> tuple[jax.Array, jax.Array]:
            (in_layer, res_skip_layer), (x, skips) = convs, carry
            y = res_skip_layer(gated(in_layer, x, condition))
            return (x + y[:, :, : self.hidden]) * mask, skips + y[:, :, self.hidden :]

        first, last = (None, None) if conditions is None else (conditions[:-1], conditions[-1])
        layers = list(zip(self.in_layers, self.res_skip_layers))
        x, skips = apply_in_turn(layer, layers[:-1], (x, jnp.zeros_like(x)), first)
        in_layer, skip_layer = layers[-1]
        return (skips + skip_layer(gated(in_layer, x, last))) * mask
