"""Decoder: latent frames to audio, the generator of HiFi-GAN."""

from __future__ import annotations

from vits_jax.config import ModelConfig
from vits_jax.voice.graph.builder import Scope, Value
from vits_jax.voice.graph.layers import conv1d, conv_transpose1d, leaky_relu


def generator(at: Scope, config: ModelConfig, z: Value, g: Value | None) -> Value:
    """``z [B, C, F]`` and ``g [B, G, 1]`` to audio ``[B, 1, F * hop]``."""
    x = conv1d(at["conv_pre"], z)
    if g is not None:
        x = at.op("Add", x, conv1d(at["cond"], g))
    block = _res_block_1 if config.resblock == "1" else _res_block_2
    per_stage = len(config.resblock_kernel_sizes)
    # The mean of a stage's blocks is left as their sum: what follows is linear but for leaky
    # ReLUs, which a positive factor passes, so the next weights take it.
    mean = 1.0
    for i, rate in enumerate(config.upsample_rates):
        x = conv_transpose1d(at["ups"][i], leaky_relu(at, x), rate, gain=mean)
        blocks = [
            block(at["resblocks"][i * per_stage + j], x, dilations)
            for j, dilations in enumerate(config.resblock_dilation_sizes)
        ]
        x = blocks[0]
        for y in blocks[1:]:
            x = at.op("Add", x, y)
        mean = 1 / per_stage
    x = leaky_relu(at, x, 0.01)  # PyTorch's default here, not the 0.1 of the other layers
    return at.op("Tanh", conv1d(at["conv_post"], x, gain=mean))


def _res_block_1(at: Scope, x: Value, dilations: tuple[int, ...]) -> Value:
    for i, dilation in enumerate(dilations):
        y = conv1d(at["convs1"][i], leaky_relu(at, x), dilation=dilation)
        x = at.op("Add", x, conv1d(at["convs2"][i], leaky_relu(at, y)))
    return x


def _res_block_2(at: Scope, x: Value, dilations: tuple[int, ...]) -> Value:
    for i, dilation in enumerate(dilations):
        y = conv1d(at["convs"][i], leaky_relu(at, x), dilation=dilation)
        x = at.op("Add", x, y)
    return x
