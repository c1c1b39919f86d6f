"""Checkpoints: what they hold, where they lie, which are kept.

`source` opens any of them, `saving` writes ours, `warm_start` takes parts; Piper's are in
``piper``, published voices in ``voices``.
"""
