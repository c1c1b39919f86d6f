"""Folders in object stores, ``gs://…`` and ``s3://…``, through fsspec.

Credentials are those of the cloud's own tools; another server than Amazon's is named by
``AWS_ENDPOINT_URL``, another than Google's by ``STORAGE_EMULATOR_HOST``.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from vits_jax.errors import UserError

PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}
"""What speaks each protocol; the extras ``[gcs]`` and ``[s3]`` bring them."""


def is_remote(path: str | os.PathLike[str] | None) -> bool:
    """Whether it lies in an object store."""
    return path is not None and "://" in str(path)


class Bucket(NamedTuple):
    """A folder in an object store.

    Attributes:
        url: as the user wrote it.
        fs: fsspec's file system.
        root: the folder's name there.
    """

    url: str
    fs: Any
    root: str

    def files(self) -> dict[str, int]:
        """Size of every file in it, by its name below `root`; raises `errors`."""
        self.fs.invalidate_cache()
        found = self.fs.find(self.root, detail=True)
        start = len(self.root) + 1
        return {name[start:]: int(about["size"]) for name, about in found.items()}

    def read(self, name: str) -> bytes:
        """A file; raises `errors`."""
        content: bytes = self.fs.cat_file(f"{self.root}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        """A small file; raises `errors`."""
        self.fs.pipe_file(f"{self.root}/{name}", content)

    def download(self, name: str, path: Path) -> None:
        """A file of any size to a path, whose directory is made; raises `errors`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get_file(f"{self.root}/{name}", str(path))

    def upload(self, path: Path, name: str) -> None:
        """The reverse: it is there whole or not at all; raises `errors`."""
        self.fs.put_file(str(path), f"{self.root}/{name}")

    def remove(self, name: str) -> None:
        """A file that may be gone already; raises `errors`."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{name}")


def errors() -> tuple[type[BaseException], ...]:
    """What to catch around a `Bucket`'s methods: what the packages raise where a store cannot be
    reached, or refuses."""
    found: list[type[BaseException]] = [OSError, TimeoutError]
    for module, names in _RAISES.items():
        with contextlib.suppress(ImportError):
            found += [getattr(importlib.import_module(module), name) for name in names]
    return tuple(found)


_RAISES = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}


def open_bucket(url: str, flag: str) -> Bucket:
    """The folder of an address.

    Args:
        url: ``s3://bucket/folder`` or ``gs://bucket/folder``.
        flag: that the user gave it with, for messages.

    Raises:
        UserError: another protocol, or a package is missing.
    """
    protocol, _, rest = url.partition("://")
    if protocol not in PACKAGES:
        raise UserError(f"{flag} {url}: expected a directory, s3://… or gs://…")
    if not rest.strip("/"):
        raise UserError(f"{flag} {url}: expected a bucket, and a folder in it")
    import fsspec

    # It tells of each connection that was cut, with a traceback; we do in a line.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        fs, root = fsspec.core.url_to_fs(url.rstrip("/"), skip_instance_cache=True)
    except ImportError as error:
        package = PACKAGES[protocol]
        raise UserError(
            f"{flag} {url} needs {package}, which is not installed: "
            f'pip install "vits_jax[{"s3" if protocol == "s3" else "gcs"}]"'
        ) from error
    return Bucket(url.rstrip("/"), fs, root)


def reason(error: BaseException) -> str:
    """In one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
