"""Whether a model hears texts and speakers: its losses when they are those of other rows.

What a model has learned of a text makes the prior of that text fit its recording better than
that of another text; where the texts of a corpus are not what is said, nothing can. It is the
same with speakers.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.training.mesh import by_row

Batch = dict[str, jax.Array]


class Contrasts:
    """Batches whose recordings are said to be something else.

    Args:
        config: of the run.
        mesh: the devices.
    """

    def __init__(self, config: Config, mesh: Mesh):
        speakers = config.model.num_speakers

        def of_next_row(batch: Batch) -> Batch:
            names = ("phoneme_ids", "phoneme_lengths")
            return batch | {name: jnp.roll(batch[name], 1, axis=0) for name in names}

        def of_next_speaker(batch: Batch) -> Batch:
            return batch | {"speaker_ids": (batch["speaker_ids"] + 1) % speakers}

        of = {"texts": of_next_row} | ({"speakers": of_next_speaker} if speakers > 1 else {})
        platform, lies = mesh.devices.flat[0].platform, by_row(mesh)
        self._of = {name: jit(f, platform, out_shardings=lies) for name, f in of.items()}

    def __call__(self, batch: Batch) -> Iterator[tuple[str, Batch]]:
        """``"texts"``, each row with the text of the row before it; with several speakers
        ``"speakers"``, each row with the next speaker."""
        for name, function in self._of.items():
            yield name, function(batch)
