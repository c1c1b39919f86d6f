"""``python -m tests.commands.few COMMAND …``: a command, of networks that compile sooner.

What is not in an exported voice has few layers: discriminators and posterior encoder. ``voice`` has
its commands run so, too.
"""

from __future__ import annotations

import sys
from typing import Any

from jax._src import xla_bridge

from vits_jax.commands.__main__ import main
from vits_jax.model import discriminator, wavenet
from vits_jax.recipe import running

_LAYERS = 4  # the flow's

if __name__ == "__main__":
    running.PROGRAM = (sys.executable, "-m", "tests.commands.few")
    discriminator.PERIODS = (2,)
    make = wavenet.WN.__init__

    def fewer(self: Any, hidden: int, k: int, n_layers: int, gin: int, **more: Any) -> None:
        make(self, hidden, k, min(n_layers, _LAYERS), gin, **more)

    wavenet.WN.__init__ = fewer  # type: ignore[method-assign]
    code = main(sys.argv[1:])
    if sys.argv[1] == "voice" and xla_bridge.backends_are_initialized():
        sys.exit("voice holds the devices that its commands need")
    sys.exit(code)
