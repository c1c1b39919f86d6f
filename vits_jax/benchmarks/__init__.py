"""Measurements, side by side with the alternative in one run.

Each module is one; `vits_jax.commands.benchmark` is their command. ``piper_step`` and
``piper_voice`` are Piper itself, run as processes of their own.
"""
