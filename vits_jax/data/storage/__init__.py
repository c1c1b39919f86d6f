"""Audio on disk: TFDS datasets of ArrayRecord shards, built in constant memory."""
