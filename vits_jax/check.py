"""``python -m vits_jax.check``: `vits_jax.commands.check`."""

import sys

from vits_jax.commands.check import main

if __name__ == "__main__":
    sys.exit(main())
