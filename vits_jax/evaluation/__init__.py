"""Voices held against recordings, and against each other: `vits-jax evaluate`."""
