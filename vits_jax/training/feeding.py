"""Batches on the devices before the step wants them.

Threads read and pad (`read_ahead`), one more thread moves batches to the devices, so that the
next ones are there while a step runs. With ``--data-on-device`` the corpus is there already, and
a batch is gathered from it: the same arrays, bit for bit.
"""

from __future__ import annotations

import functools
import time
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vits_jax.config import Config
from vits_jax.data.batching.batches import Batch, Plan, Source, load_batch, read_ahead
from vits_jax.data.batching.buckets import Bucket
from vits_jax.data.manifest import Dataset
from vits_jax.training.device_corpus import DeviceCorpus, corpus_bytes
from vits_jax.training.mesh import processes_of, put_rows

READY = 2
"""Batches on the devices beside the one that is trained on."""
_NO_END = 1 << 62


def corpus_on_devices(config: Config, dataset: Dataset) -> int:
    """Bytes of the corpus on each device; 0 where it is not kept there."""
    return corpus_bytes(dataset, config.audio.hop_length) if config.data.data_on_device else 0


class Feeder:
    """Where a run's batches come from.

    Args:
        config: says whether the corpus is kept on the devices; then it is put there.
        mesh: the devices.
        dataset: all utterances.

    Raises:
        RunFailed: the devices have no memory for the corpus.
    """

    def __init__(self, config: Config, mesh: Mesh, dataset: Dataset):
        self._mesh, self._dataset, self._corpus = mesh, dataset, None
        if config.data.data_on_device:
            self._corpus = DeviceCorpus(dataset, config.audio.hop_length, mesh)

    def ahead(
        self,
        plan: Plan,
        epoch: int = 0,
        batch: int = 0,
        *,
        count: float,
        per_epoch: int | None = None,
    ) -> Ahead:
        """The batches from a position on, being made ready from now on.

        Args:
            plan: of the batches.
            epoch, batch: the first one.
            count: how many, into later epochs if need be; infinite: without end.
            per_epoch: batches of each epoch that are used (default: all).
        """
        per_epoch = plan.steps_per_epoch if per_epoch is None else per_epoch
        source = Source(
            load=_only_rows if self._corpus else functools.partial(load_batch, self._dataset),
            plan=plan,
            first=epoch * per_epoch + batch,
            length=int(max(0, min(count, _NO_END))),
            per_epoch=per_epoch,
            process_index=jax.process_index() if processes_of(self._mesh) > 1 else 0,
            process_count=processes_of(self._mesh),
        )
        # Nothing is read where the corpus is on the devices: no threads for it.
        read = read_ahead(source, num_threads=0, prefetch=0) if self._corpus else read_ahead(source)
        return Ahead(read.map(self._put))

    def _put(self, item: tuple[Bucket, Batch]) -> tuple[Bucket, dict[str, jax.Array]]:
        bucket, rows = item
        with jax.transfer_guard("disallow"):  # nothing moves to or from a device unasked
            on_devices = put_rows(rows, self._mesh)
            if self._corpus is not None:
                on_devices = self._corpus.gather(bucket, on_devices["rows"], on_devices["weight"])
        return bucket, on_devices


class Ahead:
    """An iterator over batches on the devices, `READY` of them ready; a context that ends it.

    What goes wrong in its threads is raised by ``next``.

    Attributes:
        waited: seconds that the last ``next`` took.
    """

    def __init__(self, batches: Any):
        import grain  # takes seconds to import: only where batches are read

        ahead = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=READY)
        self._batches = iter(ahead)
        self._batches.start_prefetch()
        self.waited = 0.0

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> tuple[Bucket, dict[str, jax.Array]]:
        start = time.perf_counter()
        item: tuple[Bucket, dict[str, jax.Array]] = next(self._batches)
        self.waited = time.perf_counter() - start
        return item

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._batches.close()


def _only_rows(bucket: Bucket, rows: np.ndarray, weight: np.ndarray, hop_length: int) -> Batch:
    """In place of `load_batch`: which utterances."""
    return {"rows": np.asarray(rows, np.int32), "weight": np.asarray(weight, np.float32)}
