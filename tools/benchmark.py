#!/usr/bin/env python3
"""``vits-jax benchmark``: `vits_jax.commands.benchmark`."""

import sys

from vits_jax.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
