"""Piper's ``.ckpt`` files: what they mean, both ways; the file itself, without unpickling."""
