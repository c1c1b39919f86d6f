"""``python -m vits_jax.train``: `vits_jax.commands.train`."""

import sys

from vits_jax.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
