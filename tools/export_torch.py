#!/usr/bin/env python3
"""``vits-jax export-torch``: `vits_jax.commands.export_torch`."""

import sys

from vits_jax.commands.export_torch import main

if __name__ == "__main__":
    sys.exit(main())
