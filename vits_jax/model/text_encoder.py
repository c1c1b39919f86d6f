"""Text encoder: phoneme ids to the prior's mean and log-scale per phoneme.

A transformer with relative positions in a window of ±4 (Shaw et al. 2018), shared by
the heads, added to scores and to values; layer norm after each residual (VITS, 2.2.1).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from vits_jax.config import ModelConfig
from vits_jax.model.arithmetic import at_least_float32
from vits_jax.model.convolution import conv1d
from vits_jax.model.layers import Conv1d, Embedding, LayerNorm, biased, length_mask, normal
from vits_jax.model.randomness import Randomness

WINDOW = 4


class TextEncoder(nnx.Module):
    """Embedding, transformer, projection to the prior's statistics."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden = config.hidden_channels
        self.hidden = hidden
        self.emb = Embedding(config.num_symbols, hidden, hidden**-0.5, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.proj = Conv1d(hidden, config.inter_channels * 2, rngs=rngs)

    def __call__(
        self,
        ids: jax.Array,
        lengths: jax.Array,
        random: Randomness,
        dtype: DTypeLike | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Encode ``ids [B, P]`` of ``lengths [B]``, in `dtype` (default: the parameters').

        Returns:
            hidden ``[B, P, H]``, mean and log-scale ``[B, P, C]``, these two in float32 or more,
            mask ``[B, P, 1]``.
        """
        x = self.emb(ids) * math.sqrt(self.hidden)
        x = x if dtype is None else x.astype(dtype)
        mask = length_mask(lengths, ids.shape[1], x.dtype)
        x = self.encoder(x, mask, random, "enc_p.encoder")
        m, logs = jnp.split(at_least_float32(self.proj(x) * mask), 2, axis=2)
        return x, m, logs, mask


class Encoder(nnx.Module):
    """Layers of attention and feed-forward, each followed by residual and norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden, layers = config.hidden_channels, range(config.n_layers)
        self.p_dropout = config.p_dropout
        self.attn_layers = nnx.List([MultiHeadAttention(config, rngs=rngs) for _ in layers])
        self.norm_layers_1 = nnx.List([LayerNorm(hidden) for _ in layers])
        self.ffn_layers = nnx.List([FeedForward(config, rngs=rngs) for _ in layers])
        self.norm_layers_2 = nnx.List([LayerNorm(hidden) for _ in layers])

    def __call__(self, x: jax.Array, mask: jax.Array, random: Randomness, name: str) -> jax.Array:
        """``x [B, T, H]``, ``mask [B, T, 1]`` to ``[B, T, H]``."""
        x = x * mask
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2)
        for i, (attention, norm_1, feed_forward, norm_2) in enumerate(layers):
            y = attention(x, mask, random, f"{name}.attn_layers.{i}")
            x = norm_1(x + random.dropout(f"{name}.drop.{i}.0", y, self.p_dropout))
            y = feed_forward(x, mask, random, f"{name}.ffn_layers.{i}")
            x = norm_2(x + random.dropout(f"{name}.drop.{i}.1", y, self.p_dropout))
        return x * mask


class MultiHeadAttention(nnx.Module):
    """Self-attention with relative positions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden = config.hidden_channels
        self.heads, self.p_dropout = config.n_heads, config.p_dropout
        self.size = hidden // config.n_heads
        shape = (1, 2 * WINDOW + 1, self.size)
        self.emb_rel_k = normal(rngs, shape, self.size**-0.5)
        self.emb_rel_v = normal(rngs, shape, self.size**-0.5)
        self.conv_q = Conv1d(hidden, hidden, init="xavier", rngs=rngs)
        self.conv_k = Conv1d(hidden, hidden, init="xavier", rngs=rngs)
        self.conv_v = Conv1d(hidden, hidden, init="xavier", rngs=rngs)
        self.conv_o = Conv1d(hidden, hidden, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, random: Randomness, name: str) -> jax.Array:
        batch, length, hidden = x.shape
        by_head = (batch, length, self.heads, self.size)
        q, k, v = (y.reshape(by_head) for y in self._projected(x))  # [B, T, heads, size]
        q = q / math.sqrt(self.size)
        emb_k, emb_v = (emb[...][0].astype(x.dtype) for emb in (self.emb_rel_k, self.emb_rel_v))

        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        scores = scores + _to_absolute(jnp.einsum("bqhd,rd->bhqr", q, emb_k))
        visible = (mask[:, :, None, 0] * mask[:, None, :, 0])[:, None] > 0
        scores = jnp.where(visible, at_least_float32(scores), -1e4)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        weights = random.dropout(f"{name}.drop", weights, self.p_dropout)

        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        y = y + jnp.einsum("bhqr,rd->bqhd", _to_relative(weights), emb_v)
        return self.conv_o(y.reshape(batch, length, hidden))

    def _projected(self, x: jax.Array) -> list[jax.Array]:
        """Queries, keys and values ``[B, T, H]``, in one product."""
        convs = (self.conv_q, self.conv_k, self.conv_v)
        weight = jnp.concatenate([conv.weight[...] for conv in convs])
        bias = jnp.concatenate([conv.bias[...] for conv in convs if conv.bias is not None], axis=-1)
        return jnp.split(biased(conv1d(x, weight), bias), 3, axis=2)


# Both directions only pad and reshape: in a flat row-major matrix, rows that are one
# element longer shift the next row by one. Gathers do the same in ten times the memory
# traffic, by XLA's own count for TPU.


def _to_absolute(x: jax.Array) -> jax.Array:
    """``[..., T, 2W + 1]`` by distance to ``[..., T, T]`` by position, zero outside the window."""
    *lead, length, window = x.shape
    x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, 0), (0, length)])
    x = x.reshape(*lead, length * (length + window))[..., : length * (length + window - 1)]
    return x.reshape(*lead, length, length + window - 1)[..., WINDOW : WINDOW + length]


def _to_relative(x: jax.Array) -> jax.Array:
    """``[..., T, T]`` by position to ``[..., T, 2W + 1]`` by distance."""
    *lead, length, _ = x.shape
    none = [(0, 0)] * len(lead)
    x = jnp.pad(x, [*none, (0, 0), (WINDOW, WINDOW)]).reshape(*lead, length * (length + 2 * WINDOW))
    x = jnp.pad(x, [*none, (0, length)]).reshape(*lead, length, length + 2 * WINDOW + 1)
    return x[..., : 2 * WINDOW + 1]


class FeedForward(nnx.Module):
    """Two convolutions with a ReLU between."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden, wide, k = config.hidden_channels, config.filter_channels, config.kernel_size
        self.p_dropout = config.p_dropout
        same = ((k - 1) // 2, k // 2)
        self.conv_1 = Conv1d(hidden, wide, k, padding=same, rngs=rngs)
        self.conv_2 = Conv1d(wide, hidden, k, padding=same, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, random: Randomness, name: str) -> jax.Array:
        x = random.dropout(f"{name}.drop", jax.nn.relu(self.conv_1(x * mask)), self.p_dropout)
        return self.conv_2(x * mask) * mask
