"""The whole generator as a graph with Piper's inputs and outputs, and its two halves.

===============  =======  =====================================================
``input``        int64    ``[batch, phonemes]``
``input_lengths``  int64    ``[batch]``
``scales``       float32  ``[3]``: noise, length, noise_w
``sid``          int64    ``[batch]``; only with several speakers
``output``       float32  ``[batch, 1, 1, samples]``
===============  =======  =====================================================
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from vits_jax.config import Config
from vits_jax.voice.graph.builder import Graph, Scope, Signature, Value
from vits_jax.voice.graph.duration import log_durations
from vits_jax.voice.graph.flow import inverse_flow
from vits_jax.voice.graph.layers import length_mask, transpose
from vits_jax.voice.graph.text_encoder import text_encoder
from vits_jax.voice.graph.vocoder import generator


class Names:
    """Names of inputs and outputs; `DURATIONS` is the graph's only Ceil."""

    IDS, LENGTHS, SCALES, SPEAKER = "input", "input_lengths", "scales", "sid"
    AUDIO, DURATIONS, LATENT = "output", "durations", "z"


_TEXT: Signature = {
    Names.IDS: (TensorProto.INT64, ["batch", "phonemes"]),
    Names.LENGTHS: (TensorProto.INT64, ["batch"]),
    Names.SCALES: (TensorProto.FLOAT, [3]),
}
_SPEAKER: Signature = {Names.SPEAKER: (TensorProto.INT64, ["batch"])}
_DURATIONS: Signature = {Names.DURATIONS: (TensorProto.FLOAT, ["batch", 1, "phonemes"])}
_AUDIO: Signature = {Names.AUDIO: (TensorProto.FLOAT, ["batch", 1, 1, "samples"])}


def whole(
    config: Config, parameters: Mapping[str, np.ndarray], *, alignments: bool = False
) -> onnx.ModelProto:
    """The voice.

    Args:
        parameters: the generator's, float32.
        alignments: list the durations, float32 ``[batch, 1, phonemes]`` in frames, as a
            second output.
    """
    graph = Graph(parameters)
    at = Scope(graph)
    g = _speaker(at, config)
    z = _encode(at, config, g)
    _audio(at, config, z, g)
    outputs = _AUDIO | (_DURATIONS if alignments else {})
    return graph.model(_TEXT | _with_speaker(config), outputs, "vits")


def encoder(config: Config, parameters: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The first half: text to the latent frames ``z [batch, C, frames]``, and durations."""
    graph = Graph(parameters)
    at = Scope(graph)
    _encode(at, config, _speaker(at, config))
    outputs = _latent(config) | _DURATIONS
    return graph.model(_TEXT | _with_speaker(config), outputs, "vits_encoder")


def decoder(config: Config, parameters: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The second half: latent ``z [B, C, F]``, or a stretch of its frames, to audio."""
    graph = Graph(parameters)
    at = Scope(graph)
    _audio(at, config, Names.LATENT, _speaker(at, config))
    return graph.model(_latent(config) | _with_speaker(config), _AUDIO, "vits_decoder")


def _with_speaker(config: Config) -> Signature:
    return dict(_SPEAKER) if config.model.num_speakers > 1 else {}


def _latent(config: Config) -> Signature:
    return {Names.LATENT: (TensorProto.FLOAT, ["batch", config.model.inter_channels, "frames"])}


def _speaker(at: Scope, config: Config) -> Value | None:
    """Embedding ``[B, G]``; None for a single-speaker model."""
    if config.model.num_speakers == 1:
        return None
    return at["emb_g"].op("Gather", at["emb_g"].parameter("weight"), Names.SPEAKER)


def _encode(at: Scope, config: Config, g: Value | None) -> Value:
    """Text to the latent frames ``z [B, C, F]``, zero beyond each row's end."""
    model = config.model
    noise, length, noise_w = (
        at.op("Gather", Names.SCALES, at.integer(i)) for i in range(3)
    )  # scalars
    g_last = None if g is None else at.op("Unsqueeze", g, at.integers(1))  # [B, 1, G]
    g_first = None if g is None else at.op("Unsqueeze", g, at.integers(2))  # [B, G, 1]

    x, m_p, logs_p, x_mask = text_encoder(at["enc_p"], model, Names.IDS, Names.LENGTHS)
    log_w = log_durations(at["dp"], model, x, x_mask, g_last, noise_w)
    w = at.op("Mul", at.op("Mul", at.op("Exp", log_w), x_mask), length)  # [B, P, 1]
    durations = at.op("Ceil", transpose(at, w), output=Names.DURATIONS)  # [B, 1, P]

    total = at.op("ReduceSum", durations, at.integers(1, 2), keepdims=0)
    frames = at.op("Cast", at.op("Max", total, at.number(1.0)), to=TensorProto.INT64)  # [B]
    n_frames = at.op("ReduceMax", frames, axes=[0], keepdims=1)
    y_mask = at.op("Unsqueeze", length_mask(at, frames, n_frames), at.integers(1))  # [B, 1, F]

    # Which frames are a phoneme's, as a matrix [B, P, F]: multiplying by it repeats the rows.
    by_phoneme = transpose(at, durations)
    ends = at.op("CumSum", by_phoneme, at.integer(1))
    begins = at.op("Sub", ends, by_phoneme)
    frame = at.op("Range", at.integer(0), at.op("Squeeze", n_frames), at.integer(1))
    frame = at.op("Cast", frame, to=TensorProto.FLOAT)
    aligned = at.op("And", at.op("GreaterOrEqual", frame, begins), at.op("Less", frame, ends))
    aligned = at.op("Cast", aligned, to=TensorProto.FLOAT)
    m_p = at.op("MatMul", transpose(at, m_p), aligned)  # [B, C, F]
    logs_p = at.op("MatMul", transpose(at, logs_p), aligned)

    z_p = at.op("Mul", at.op("RandomNormalLike", m_p), at.op("Exp", logs_p))
    z_p = at.op("Add", m_p, at.op("Mul", z_p, noise))
    z = inverse_flow(at["flow"], model, z_p, y_mask, g_first)
    return at.op("Mul", z, y_mask, output=Names.LATENT)


def _audio(at: Scope, config: Config, z: Value, g: Value | None) -> None:
    """Latent frames to audio ``[B, 1, 1, samples]``."""
    g = None if g is None else at.op("Unsqueeze", g, at.integers(2))
    audio = generator(at["dec"], config.model, z, g)
    at.op("Unsqueeze", audio, at.integers(1), output=Names.AUDIO)
