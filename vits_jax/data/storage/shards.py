"""The records of a store: a TFDS dataset in ArrayRecord files, written record by record.

TFDS's own writer gathers a whole split before it writes, and beyond 1,000 MiB does so in
files that only TensorFlow opens. Here a record goes into its file when it comes; what TFDS
wants to know of the files is written beside them in the end.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer

from vits_jax.errors import RunFailed

SHARD_BYTES = 64 << 20
"""Of records in one file, before compression: what a killed run loses at most."""
NAME, VERSION, SPLIT = "speech", "1.0.0", "train"
PLACE = Path(NAME, VERSION)
"""Where in a store the dataset lies."""

# `tfds.features.Audio` needs TensorFlow; without `encoding`, writing is 40 times slower.
FEATURES = tfds.features.FeaturesDict(
    {"audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")}
)
_SERIALIZER = example_serializer.ExampleSerializer(FEATURES.get_serialized_info())


class Shard:
    """A file of records that is being written.

    Attributes:
        path: of the file.
        num_bytes: of its records so far, before compression.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        # Groups of one, as TFDS has them: a record is read without its neighbours.
        self._writer = ArrayRecordWriter(os.fspath(path), "group_size:1")

    def add(self, audio: np.ndarray) -> None:
        """Append int16 ``[samples]``.

        Raises:
            RunFailed: the file cannot be written; often only `close` notices.
        """
        record = _SERIALIZER.serialize_example(FEATURES.encode_example({"audio": audio}))
        try:
            self._writer.write(record)
        except RuntimeError as error:
            raise self._failed(error) from error
        self.num_bytes += len(record)

    def close(self) -> None:
        """Complete the file; it is on the disk then.

        Raises:
            RunFailed: it cannot be written.
        """
        try:
            self._writer.close()
        except RuntimeError as error:
            self.path.unlink(missing_ok=True)  # where the disk is full it wants the room
            raise self._failed(error) from error
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _failed(self, error: RuntimeError) -> RunFailed:
        reason = str(error).partition(";")[0]  # the rest names the file again
        return RunFailed(
            f"{self.path} cannot be written: {reason}: run it again when it can, "
            "and it goes on where it stopped"
        )


def shard_path(store: Path, number: int) -> Path:
    """The file of a shard of a store."""
    return Path(_template(store).sharded_filepath(shard_index=number, num_shards=None))


def remove_shards(store: Path, beyond: int) -> None:
    """Remove files of records from a number on: what a killed run was writing."""
    for path in (store / PLACE).glob(f"{NAME}-{SPLIT}.array_record-*"):
        if int(path.name.rpartition("-")[2]) >= beyond:
            path.unlink()


def write_metadata(store: Path, lengths: Sequence[int], num_bytes: int) -> None:
    """Make the shards of a store a dataset that `tfds.builder_from_directory` reads.

    Args:
        store: its directory.
        lengths: records in each shard.
        num_bytes: of all records.
    """
    info = tfds.core.DatasetInfo(
        builder=tfds.core.dataset_info.DatasetIdentity(
            name=NAME,
            version=tfds.core.Version(VERSION),
            data_dir=os.fspath(store / PLACE),
            module_name="vits_jax.data.storage.store",
        ),
        features=FEATURES,
        disable_shuffling=True,  # record i is the i-th example
    )
    info.set_file_format("array_record")
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=list(lengths),
        num_bytes=num_bytes,
        filename_template=_template(store),
    )
    info.set_splits(tfds.core.splits.SplitDict([split]))
    info.write_to_directory(store / PLACE)


def open_records(store: Path) -> Any:
    """The records of a store, by number: ``[3]["audio"]``; and how many each file holds."""
    builder = tfds.builder_from_directory(store / PLACE)
    return builder.as_data_source(SPLIT), builder.info.splits[SPLIT]


def _template(store: Path) -> Any:
    # Without the number of shards, which is known in the end only.
    return tfds.core.ShardedFileTemplate(
        dataset_name=NAME,
        data_dir=store / PLACE,
        split=SPLIT,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )
