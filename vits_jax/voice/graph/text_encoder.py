"""Text encoder: phoneme ids to the prior's mean and log-scale per phoneme.

The channels are last here, as the attention wants them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from vits_jax.config import ModelConfig
from vits_jax.model.text_encoder import WINDOW
from vits_jax.voice.graph.builder import Scope, Value
from vits_jax.voice.graph.layers import (
    conv1d,
    layer_norm,
    length_mask,
    pointwise,
    transpose,
)


def text_encoder(
    at: Scope, config: ModelConfig, ids: Value, lengths: Value
) -> tuple[Value, Value, Value, Value]:
    """Encode ``ids [B, P]`` of ``lengths [B]``.

    Returns:
        hidden ``[B, P, H]``, mean and log-scale ``[B, P, C]``, mask ``[B, P, 1]``.
    """
    x = at["emb"].op("Gather", at["emb"].parameter("weight"), ids)
    x = at.op("Mul", x, at.number(math.sqrt(config.hidden_channels)))
    mask = length_mask(at, lengths, at.size(ids, 1))
    mask = at.op("Unsqueeze", mask, at.integers(2))
    x = _encoder(at["encoder"], config, x, mask)
    statistics = at.op("Mul", pointwise(at["proj"], x), mask)
    m, logs = at.split(statistics, [config.inter_channels] * 2, axis=2)
    return x, m, logs, mask


def _encoder(at: Scope, config: ModelConfig, x: Value, mask: Value) -> Value:
    """``x [B, P, H]``, ``mask [B, P, 1]`` to ``[B, P, H]``."""
    x = at.op("Mul", x, mask)
    visible = at.op("MatMul", mask, transpose(at, mask))
    visible = at.op("Cast", at.op("Unsqueeze", visible, at.integers(1)), to=9)  # [B, 1, P, P]
    skewing = _skewing(at, config, at.size(x, 1))
    for i in range(config.n_layers):
        y = _attention(at["attn_layers"][i], config, x, visible, skewing)
        x = layer_norm(at["norm_layers_1"][i], at.op("Add", x, y))
        y = _feed_forward(at["ffn_layers"][i], config, x, mask)
        x = layer_norm(at["norm_layers_2"][i], at.op("Add", x, y))
    return at.op("Mul", x, mask)


class _Skewing(NamedTuple):
    """Sizes by which relative positions become absolute ones and back; they hold in all layers."""

    after: Value  # pads of the last axis: nothing before, P after
    cells: Value  # P * (P + 2W), int64 [1]
    rows: Value  # the shape [0, heads, P, P + 2W]
    longer_rows: Value  # the shape [0, heads, P, P + 2W + 1]
    flat: Value  # the shape [0, heads, -1]
    after_flat: Value  # as `after`, of three axes
    end: Value  # W + P, int64 [1]


def _skewing(at: Scope, config: ModelConfig, length: Value) -> _Skewing:
    heads = at.integers(0, config.n_heads)
    row = at.op("Add", length, at.integers(2 * WINDOW))
    longer = at.op("Add", row, at.integers(1))
    return _Skewing(
        after=at.concat(at.integers(*[0] * 7), length, axis=0),
        cells=at.op("Mul", length, row),
        rows=at.concat(heads, length, row, axis=0),
        longer_rows=at.concat(heads, length, longer, axis=0),
        flat=at.integers(0, config.n_heads, -1),
        after_flat=at.concat(at.integers(*[0] * 5), length, axis=0),
        end=at.op("Add", length, at.integers(WINDOW)),
    )


def _attention(
    at: Scope, config: ModelConfig, x: Value, visible: Value, skewing: _Skewing
) -> Value:
    """Self-attention with relative positions, ``[B, P, H]``."""
    size = config.hidden_channels // config.n_heads

    def by_head(y: Value, perm: list[int]) -> Value:
        y = at.op("Reshape", y, at.integers(0, 0, config.n_heads, size))
        return at.op("Transpose", y, perm=perm)

    q = by_head(pointwise(at["conv_q"], x), [0, 2, 1, 3])
    q = at.op("Mul", q, at.number(1 / math.sqrt(size)))
    k = by_head(pointwise(at["conv_k"], x), [0, 2, 3, 1])
    v = by_head(pointwise(at["conv_v"], x), [0, 2, 1, 3])
    emb_k = at.parameter("emb_rel_k", at.array("emb_rel_k")[0].T)
    emb_v = at.parameter("emb_rel_v", at.array("emb_rel_v")[0])

    scores = at.op("MatMul", q, k)  # [B, heads, P, P]
    scores = at.op("Add", scores, _to_absolute(at, at.op("MatMul", q, emb_k), skewing))
    scores = at.op("Where", visible, scores, at.number(-1e4))
    weights = at.op("Softmax", scores, axis=-1)
    y = at.op("MatMul", weights, v)
    y = at.op("Add", y, at.op("MatMul", _to_relative(at, weights, skewing), emb_v))
    y = at.op("Transpose", y, perm=[0, 2, 1, 3])
    y = at.op("Reshape", y, at.integers(0, 0, config.hidden_channels))
    return pointwise(at["conv_o"], y)


def _to_absolute(at: Scope, x: Value, skewing: _Skewing) -> Value:
    """``[..., P, 2W + 1]`` by distance to ``[..., P, P]`` by position, zero outside the window."""
    x = at.op("Reshape", at.op("Pad", x, skewing.after), skewing.flat)
    x = at.op("Reshape", at.cut(x, 0, skewing.cells, axis=2), skewing.rows)
    return at.cut(x, WINDOW, skewing.end, axis=3)


def _to_relative(at: Scope, x: Value, skewing: _Skewing) -> Value:
    """``[..., P, P]`` by position to ``[..., P, 2W + 1]`` by distance."""
    x = at.op("Pad", x, at.integers(0, 0, 0, WINDOW, 0, 0, 0, WINDOW))
    x = at.op("Pad", at.op("Reshape", x, skewing.flat), skewing.after_flat)
    return at.cut(at.op("Reshape", x, skewing.longer_rows), 0, 2 * WINDOW + 1, axis=3)


def _feed_forward(at: Scope, config: ModelConfig, x: Value, mask: Value) -> Value:
    """Two convolutions with a ReLU between, ``[B, P, H]``."""
    k = config.kernel_size
    same = ((k - 1) // 2, k // 2)
    mask_t = transpose(at, mask)
    x = transpose(at, at.op("Mul", x, mask))
    x = at.op("Relu", conv1d(at["conv_1"], x, padding=same))
    x = conv1d(at["conv_2"], at.op("Mul", x, mask_t), padding=same)
    return at.op("Mul", transpose(at, x), mask)
