"""A corpus in the memory of the devices, from which batches are gathered (``--data-on-device``).

Each device has all of it: an epoch's shuffle may want any utterance anywhere, and parts would have
to be exchanged before each step. 16-bit samples at 22,050 Hz are 160 MB an hour.
"""

from __future__ import annotations

import functools
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vits_jax import device_memory
from vits_jax.compilation import jit
from vits_jax.data.batching.buckets import Bucket
from vits_jax.data.manifest import Dataset
from vits_jax.training.mesh import put_copies, replicated

_LOGGER = logging.getLogger(__name__)
_ADVICE = "leave --data-on-device out: batches are then read while the step runs"


def corpus_bytes(dataset: Dataset, hop_length: int) -> int:
    """Of a dataset in a device's memory."""
    frames = int(_frames(dataset, hop_length).sum())
    return 2 * hop_length * frames + dataset.ids.nbytes + 4 * 5 * len(dataset)


class DeviceCorpus:
    """All audio and phoneme ids, on every device of a mesh.

    Audio lies in whole frames, an utterance after the other, the last frame of each filled
    with zeros: so frames are numbered in 32 bits however long a corpus is.

    Raises:
        RunFailed: there is not memory enough.
    """

    def __init__(self, dataset: Dataset, hop_length: int, mesh: Mesh):
        start = time.perf_counter()
        lengths = _frames(dataset, hop_length)
        ends = np.cumsum(lengths)
        frames = np.zeros((ends[-1], hop_length), np.int16)
        flat = frames.reshape(-1)
        for row, first in enumerate(((ends - lengths) * hop_length).tolist()):
            audio = dataset.audio(row)
            flat[first : first + len(audio)] = audio
        columns = {
            "first_frame": ends - lengths,
            "samples": dataset.samples,
            "first_id": dataset.id_starts,
            "ids": dataset.id_lengths,
            "speaker": dataset.speaker_ids,
        }
        arrays = {name: np.asarray(column, np.int32) for name, column in columns.items()}
        what = f"the corpus ({device_memory.gigabytes(corpus_bytes(dataset, hop_length))})"
        with device_memory.explained(lambda: (what, None), _ADVICE):
            self._corpus = put_copies(
                {"audio": frames, "phonemes": dataset.ids, **arrays}, replicated(mesh)
            )
            jax.block_until_ready(self._corpus)
        # A function of its own for each corpus: what is compiled for it goes with it.
        self._gather = jit(
            functools.partial(_gather, mesh),
            mesh.devices.flat[0].platform,
            static_argnames=("phonemes", "frames"),
        )
        _LOGGER.info(
            "%s is on %d device%s after %.1f s",
            *(what, mesh.size, "s" * (mesh.size > 1), time.perf_counter() - start),
        )

    def gather(self, bucket: Bucket, rows: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
        """What `load_batch` would give, on the devices.

        Args:
            bucket: the shape.
            rows: int32 ``[B]``, spread over the devices.
            weight: float32 ``[B]``, likewise.
        """
        batch = self._gather(self._corpus, rows, phonemes=bucket.phonemes, frames=bucket.frames)
        return {**batch, "weight": weight}


def _gather(
    mesh: Mesh, corpus: dict[str, jax.Array], rows: jax.Array, *, phonemes: int, frames: int
) -> dict[str, jax.Array]:
    """A batch but for its weights; each device gathers its own rows."""

    def of_a_device(corpus: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
        of = {
            name: corpus[name][rows]  # [B]
            for name in ("first_frame", "samples", "first_id", "ids", "speaker")
        }
        hop_length = corpus["audio"].shape[1]
        filled = -(-of["samples"] // hop_length)  # frames of each
        audio = _taken(corpus["audio"], of["first_frame"], filled, frames)  # [B, F, hop]
        ids = _taken(corpus["phonemes"], of["first_id"], of["ids"], phonemes)  # [B, P]
        return {
            "phoneme_ids": ids.astype(jnp.int32),
            "phoneme_lengths": of["ids"],
            "audio": audio.reshape(len(rows), frames * hop_length),
            "audio_lengths": of["samples"],
            "speaker_ids": of["speaker"],
        }

    return jax.shard_map(of_a_device, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))(
        corpus, rows
    )


def _taken(array: jax.Array, first: jax.Array, lengths: jax.Array, size: int) -> jax.Array:
    """``[rows, size, …]``: of each row so many elements from the first on, then zeros."""
    steps = jnp.arange(size, dtype=jnp.int32)
    index = first[:, None] + steps
    beyond = jnp.int32(len(array))
    index = jnp.where(steps < lengths[:, None], index, beyond)
    return array.at[index].get(mode="fill", fill_value=0)


def _frames(dataset: Dataset, hop_length: int) -> np.ndarray:
    """Frames of each utterance, the last one filled up, int64 ``[utterances]``."""
    return -(-dataset.samples.astype(np.int64) // hop_length)
