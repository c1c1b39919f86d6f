#!/usr/bin/env python3
"""``vits-jax import-torch``: `vits_jax.commands.import_torch`."""

import sys

from vits_jax.commands.import_torch import main

if __name__ == "__main__":
    sys.exit(main())
