"""``python -m vits_jax.preprocess``: `vits_jax.commands.preprocess`."""

import sys

from vits_jax.commands.preprocess import main

if __name__ == "__main__":
    sys.exit(main())
