"""Checkpoints: what they hold, where they lie, which are kept."""
