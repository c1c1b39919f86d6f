"""The audio of a dataset: a TFDS dataset in ArrayRecord files, int16, the only copy.

A store is a directory ``audio-<fingerprint>`` in the dataset directory:

    audio-<fingerprint>/
      speech/1.0.0/   the TFDS dataset; a record is {"audio": int16 [samples]}
      samples.npy     int32 [records], the length of each record
      facts.npy       FACTS [records], what the files were like
      digests.npy     SHA-256 of each recording it was made from, where that is known
      index.json      which recordings were refused, and why; the size of every file

The fingerprint is a hash of everything that decides the samples, so a store made from
other recordings or with other settings has another name. A store appears whole, by
renaming a finished directory, or not at all.

``audio_norm_path`` in ``dataset.jsonl`` names a record as ``audio-<fingerprint>#<number>``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from vits_jax.data.audio_files import Recording
from vits_jax.data.refused import Refused
from vits_jax.errors import UserError

FORMAT_VERSION = 2
FACTS = np.dtype([("rate", "<i4"), ("clipped", "<i4"), ("speech", "<f4")])
"""What `Recording` says beside the samples; its order."""
DIGEST = np.dtype("V32")
NO_SAMPLES, NO_FACTS = np.zeros(0, np.int32), np.zeros(0, FACTS)
_RECORD = re.compile(r"(audio-[0-9a-f]{16})#(\d{1,9})")


Outcome = int | Refused
"""What became of a recording: the number of its record, or why it has none."""


@dataclass(frozen=True)
class Store:
    """An open store: ``store.audio(3)`` reads record 3; safe to read from several threads.

    Attributes:
      directory: where it lies.
      sample_rate: hertz.
      samples: int32 ``[records]``, the length of each record.
      facts: `FACTS` ``[records]``.
      outcomes: of each recording that was given to `build`, in that order.
      settings: the fingerprint of the settings alone; empty where nobody said.
      digests: `DIGEST` of each recording, as far as they are known.
    """

    directory: Path
    sample_rate: int
    samples: np.ndarray
    facts: np.ndarray
    outcomes: list[Outcome]
    settings: str
    digests: np.ndarray

    def audio(self, record: int) -> np.ndarray:
        """int16 ``[samples]`` of a record.

        Raises:
          UserError: the record is damaged (ArrayRecord keeps a hash of each).
        """
        try:
            return self._source[int(record)]["audio"]
        except RuntimeError as error:
            raise UserError(
                f"{self.directory}: record {record} is damaged: "
                "remove that directory and run preprocess again"
            ) from error

    @functools.cached_property
    def _source(self) -> Any:
        builder = tfds.builder_from_directory(self.directory / "speech" / "1.0.0")
        return builder.as_data_source("train")


class SpeechBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """The TFDS dataset of a store; its examples come from the `audio` it is given, in order."""

    name = "speech"
    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. Looking for a checksum file beside this module would import
    # importlib_resources, which TFDS does not declare for these versions of Python.
    url_infos: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, audio: Iterable[np.ndarray], **kwargs: Any) -> None:
        self._audio = audio
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # `tfds.features.Audio` needs TensorFlow; without `encoding`, writing is 40 times slower.
        audio = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
        # Not shuffled: record i is the i-th example.
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"audio": audio}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for index, audio in enumerate(self._audio):
            yield index, {"audio": audio}


def fingerprint(settings: dict[str, Any], sources: Iterable[Any]) -> str:
    """16 hexadecimal digits that stand for settings and sources (both as JSON)."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, settings], sort_keys=True).encode())
    for source in sources:
        digest.update(json.dumps(source).encode() + b"\n")
    return digest.hexdigest()[:16]


def store_path(parent: Path, mark: str) -> Path:
    """Where the store of a fingerprint lies."""
    return parent / f"audio-{mark}"


def record_name(store: Store, record: int) -> str:
    """How ``audio_norm_path`` names a record."""
    return f"{store.directory.name}#{record}"


def parse_record_name(path: str) -> tuple[str, int] | None:
    """Name of the store and number of the record; None for the path of a file."""
    match = _RECORD.fullmatch(path)
    return (match[1], int(match[2])) if match else None


def build(
    parent: Path,
    mark: str,
    sample_rate: int,
    recordings: Iterable[Recording | Refused],
    settings: str = "",
    digests: Sequence[bytes] = (),
) -> list[Outcome]:
    """Write a store, whole or not at all.

    Args:
      parent: the directory to write it in.
      mark: its fingerprint.
      sample_rate: of the recordings, hertz.
      recordings: or why there is none; read once, as they come.
      settings: fingerprint of the settings alone.
      digests: SHA-256 of each recording, so that a later store can take it from this one.

    Returns:
      What became of each recording. Where none could be used, there is no store.
    """
    outcomes: list[Outcome] = []
    samples: list[int] = []
    facts: list[tuple[Any, ...]] = []

    def accepted() -> Iterator[np.ndarray]:
        for recording in recordings:
            if isinstance(recording, Refused):
                outcomes.append(recording)
            else:
                outcomes.append(len(samples))
                samples.append(len(recording.samples))
                facts.append(tuple(recording)[1:])
                yield recording.samples

    with building(parent, mark) as temporary:
        audio = accepted()
        first = next(audio, None)
        if first is None:
            return outcomes
        write_records(temporary, SpeechBuilder, audio=_chain(first, audio))
        finish(temporary, parent, mark, sample_rate, outcomes, samples, facts, settings, digests)
    return outcomes


@contextlib.contextmanager
def building(parent: Path, mark: str) -> Iterator[Path]:
    """A directory to write a store in; gone in the end, unless `finish` made it the store."""
    temporary = parent / f".{store_path(parent, mark).name}.{socket.gethostname()}.{os.getpid()}"
    remove_abandoned(parent)
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process that had our number
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish(
    temporary: Path,
    parent: Path,
    mark: str,
    sample_rate: int,
    outcomes: Sequence[Outcome],
    samples: Sequence[int],
    facts: Sequence[tuple[Any, ...]],
    settings: str,
    digests: Sequence[bytes],
) -> None:
    """Write what is beside the records, and give the store its name; see `build`."""
    target = store_path(parent, mark)
    np.save(temporary / "samples.npy", np.asarray(samples, np.int32))
    np.save(temporary / "facts.npy", np.array(facts, FACTS))
    np.save(temporary / "digests.npy", np.frombuffer(b"".join(digests), DIGEST))
    index = {
        "format_version": FORMAT_VERSION,
        "sample_rate": sample_rate,
        "settings": settings,
        "files": {
            str(path.relative_to(temporary)): path.stat().st_size
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        },
        "outcomes": [o if isinstance(o, int) else [o.kind, o.reason] for o in outcomes],
    }
    (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
    if not is_whole(target):  # else another process was first: the same audio
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)


def open_store(directory: Path) -> Store:
    """Open a store after looking at every file's size.

    Raises:
      UserError: missing, of another format, or damaged.
    """
    remedy = "run preprocess again (or remove it, where train packed it)"
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist: dataset.jsonl names audio in it; {remedy}")
    try:
        index = json.loads((directory / "index.json").read_text(encoding="utf-8"))
        if index["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{directory} has format {index['format_version']!r}, "
                f"this version reads {FORMAT_VERSION}: {remedy}"
            )
        for name, size in index["files"].items():
            if (directory / name).stat().st_size != size:
                raise UserError(f"{directory / name} is damaged: it had {size} bytes; {remedy}")
        outcomes = [o if isinstance(o, int) else Refused(*o) for o in index["outcomes"]]
        arrays = {name: np.load(directory / f"{name}.npy") for name in ("samples", "facts")}
        return Store(
            directory=directory,
            sample_rate=int(index["sample_rate"]),
            **arrays,
            outcomes=outcomes,
            settings=str(index["settings"]),
            digests=np.load(directory / "digests.npy"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{directory} is damaged: {reason}; {remedy}") from error


def is_whole(directory: Path) -> bool:
    """Whether a store is there and undamaged."""
    try:
        open_store(directory)
    except UserError:
        return False
    return True


def stores_in(parent: Path) -> list[Path]:
    """Every store of a directory, whole or not."""
    return [
        path
        for path in sorted(parent.glob("audio-*"))
        if (path / "index.json").is_file() and _RECORD.fullmatch(f"{path.name}#0")
    ]


def remove_others(keep: Path) -> list[Path]:
    """Remove every other store beside `keep`; returns what was removed."""
    others = [path for path in stores_in(keep.parent) if path != keep]
    for path in others:
        shutil.rmtree(path)
    return others


def remove_abandoned(parent: Path) -> None:
    """Remove what killed processes of this machine left half-written."""
    for path in parent.glob(f".audio-*.{socket.gethostname()}.*"):
        if path.suffix[1:].isdigit() and not _is_running(int(path.suffix[1:])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def write_records(
    directory: Path, kind: type[SpeechBuilder], download_config: Any = None, **arguments: Any
) -> None:
    """Write the TFDS dataset of a store with a builder."""
    tfds.disable_progress_bar()  # it would count shards; the caller counts utterances
    builder = kind(data_dir=directory, file_format="array_record", **arguments)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces itself with print
        builder.download_and_prepare(download_config=download_config)
    shutil.rmtree(directory / "downloads")  # always made, always empty
