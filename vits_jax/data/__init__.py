"""Recordings to batches; no JAX here.

`manifest` reads a dataset directory, `unusable` says what of it cannot be trained on; the
rooms: ``corpora``, ``checks``, ``preparing``, ``storage``, ``batching``.
"""
