"""``python -m vits_jax.export_onnx``: `vits_jax.commands.export_onnx`."""

import sys

from vits_jax.commands.export_onnx import main

if __name__ == "__main__":
    sys.exit(main())
