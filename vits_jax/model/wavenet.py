"""WN: the gated convolutions of WaveNet, used by the posterior encoder and the flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.model.layers import WeightNormConv1d


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
        conditions: list[jax.Array | None] = [None] * n_layers
        if g is not None and self.cond_layer is not None:
            conditions = list(jnp.split(self.cond_layer(g), n_layers, axis=2))
        skips = jnp.zeros_like(x)
        # Unrolled: in a `lax.scan` XLA:CPU runs the convolutions forty times slower (docs/log.md).
        for i in range(n_layers):
            y = self.in_layers[i](x)
            condition = conditions[i]
            if condition is not None:
                y = y + condition
            y = jnp.tanh(y[:, :, : self.hidden]) * jax.nn.sigmoid(y[:, :, self.hidden :])
            y = self.res_skip_layers[i](y)
            if i < n_layers - 1:
                x = (x + y[:, :, : self.hidden]) * mask
                y = y[:, :, self.hidden :]
            skips = skips + y
        return skips * mask
