"""Which utterances make a batch, of which shape, in which order."""
