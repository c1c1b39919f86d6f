"""The generator as an ONNX graph, written node by node.

The modules here mirror those of `vits_jax.model`, name by name: hold the two side by
side. Signals are ``[B, C, T]`` here, which onnxruntime's convolutions want.
"""

from vits_jax.voice.graph.synthesizer import Names, decoder, encoder, whole

__all__ = ["Names", "decoder", "encoder", "whole"]
