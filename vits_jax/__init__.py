"""Train Piper voices in JAX.

>>> import vits_jax
>>> voice = vits_jax.load("runs/demo/run")  # doctest: +SKIP
>>> audio = voice.synthesize(phoneme_ids)  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vits_jax.voice import Voice

__all__ = ["load"]


def load(checkpoint: str | Path, *, ema: bool = True, best: bool = False) -> Voice:
    """A voice that speaks, from a checkpoint.

    Args:
        checkpoint: a run directory (its latest step is taken) or the directory of one step.
        ema: speak with the averages of the weights (`train --ema-decay`), where it has some.
        best: of a run directory, take the best step that is kept (`train --keep-best-by`).

    Raises:
        vits_jax.errors.UserError: there is no checkpoint in that place.
    """
    # Imported here: `import vits_jax` must not cost the start-up of jax.
    from vits_jax.voice import load as load_voice

    return load_voice(checkpoint, ema=ema, best=best)
