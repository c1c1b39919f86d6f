"""Voices (``.onnx``) as checkpoints: the file, its graph, the weights in it."""
