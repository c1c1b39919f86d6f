"""Recordings to batches: corpus, audio files, store, manifest, batch plan. No JAX here."""
