"""Numbers about speech, and what they say of a run."""
