"""WN: the gated convolutions of WaveNet, used by the flow."""

from __future__ import annotations

from vits_jax.voice.graph.builder import Scope, Value
from vits_jax.voice.graph.layers import conv1d


def wavenet(at: Scope, x: Value, mask: Value, g: Value | None, hidden: int, n_layers: int) -> Value:
    """``x [B, H, T]``, ``mask [B, 1, T]``, ``g [B, G, 1]`` to ``[B, H, T]``."""
    conditions = []
    if g is not None:
        condition = conv1d(at["cond_layer"], g)
        conditions = at.split(condition, [2 * hidden] * n_layers, axis=1)
    skips = ""
    for i in range(n_layers):
        y = conv1d(at["in_layers"][i], x)
        if conditions:
            y = at.op("Add", y, conditions[i])
        filtered, gate = at.split(y, [hidden] * 2, axis=1)
        y = at.op("Mul", at.op("Tanh", filtered), at.op("Sigmoid", gate))
        y = conv1d(at["res_skip_layers"][i], y)
        if i < n_layers - 1:
            residual, y = at.split(y, [hidden] * 2, axis=1)
            x = at.op("Mul", at.op("Add", x, residual), mask)
        skips = at.op("Add", skips, y) if skips else y
    return at.op("Mul", skips, mask)
