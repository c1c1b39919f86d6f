"""A prepared directory that lies in an object store, read without a copy of it on the disk.

Small files come to a directory that goes with this process. The audio comes into memory: in its
place there are names of memory (Linux's memfd), which ArrayRecord reads as it reads files.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil

from vits_jax.buckets import Bucket, errors, is_remote, open_bucket, reason
from vits_jax.data.storage import store as stores
from vits_jax.data.storage.shards import PLACE
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)

_THREADS = 8  # downloads at a time


def local_view(dataset_dir: str | Path) -> Path:
    """The directory itself, or, of one in an object store, what reads like it.

    Raises:
        UserError: it cannot be read, holds audio in files of its own, or is larger than the memory.
    """
    return _fetched(str(dataset_dir)) if is_remote(dataset_dir) else Path(dataset_dir)


@functools.cache
def _fetched(url: str) -> Path:
    begin = time.perf_counter()
    bucket = open_bucket(url, "--dataset-dir")
    try:
        sizes = bucket.files()
        if "dataset.jsonl" not in sizes or "config.json" not in sizes:
            raise UserError(
                f"--dataset-dir {url}: no config.json and dataset.jsonl in it: expected a "
                "directory that preprocess wrote"
            )
        directory = Path(tempfile.mkdtemp(prefix="vits_jax-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        for name in ("config.json", "dataset.jsonl"):
            bucket.download(name, directory / name)
        store = _store_of(url, directory)
        own = {name: size for name, size in sizes.items() if name.startswith(f"{store}/")}
        total, room = sum(own.values()), psutil.virtual_memory().available
        if total > room:
            raise UserError(
                f"--dataset-dir {url}: its audio has {total / 1e9:.1f} GB, this machine "
                f"{room / 1e9:.1f} GB of memory left: copy it to a disk"
            )
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(functools.partial(_fetch, bucket, directory), own))
    except errors() as error:
        raise UserError(f"--dataset-dir {url}: cannot be read: {reason(error)}") from error
    _LOGGER.info(
        "%s: %.1f MB of audio in memory after %.1f s",
        url,
        total / 1e6,
        time.perf_counter() - begin,
    )
    return directory


def _store_of(url: str, directory: Path) -> str:
    """The store that the first line names; all lines do."""
    with (directory / "dataset.jsonl").open(encoding="utf-8") as file:
        first = file.readline()
    try:
        record = stores.parse_record_name(json.loads(first)["audio_norm_path"])
    except (ValueError, KeyError, TypeError):
        return "audio-"  # reading it will say what is wrong
    if record is None:
        raise UserError(
            f"--dataset-dir {url}: its audio is in files of their own: train on it once where it "
            "lies on a disk, or prepare it with preprocess, and copy it again"
        )
    return record[0]


def _fetch(bucket: Bucket, directory: Path, name: str) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not name.startswith(f"{name.partition('/')[0]}/{PLACE.as_posix()}/") or ".json" in name:
        bucket.download(name, path)
        return
    memory = os.memfd_create(path.name)
    place = Path(f"/proc/{os.getpid()}/fd/{memory}")
    bucket.download(name, place)
    path.symlink_to(place)
