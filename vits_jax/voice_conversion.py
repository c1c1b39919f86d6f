"""``python -m vits_jax.voice_conversion``: `vits_jax.commands.voice_conversion`."""

import sys

from vits_jax.commands.voice_conversion import main

if __name__ == "__main__":
    sys.exit(main())
