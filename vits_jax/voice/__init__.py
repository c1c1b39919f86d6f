"""A checkpoint that speaks."""

from vits_jax.voice.voice import Voice, load

__all__ = ["Voice", "load"]
