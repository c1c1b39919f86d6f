#!/usr/bin/env python3
"""``vits-jax import-onnx``: `vits_jax.commands.import_onnx`."""

import sys

from vits_jax.commands.import_onnx import main

if __name__ == "__main__":
    sys.exit(main())
