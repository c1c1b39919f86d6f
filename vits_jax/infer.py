"""``python -m vits_jax.infer``: `vits_jax.commands.infer`."""

import sys

from vits_jax.commands.infer import main

if __name__ == "__main__":
    sys.exit(main())
