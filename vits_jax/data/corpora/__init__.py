"""Corpora as users have them: rows, recordings, settings; nothing is written."""
