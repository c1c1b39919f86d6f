"""Audio files that a ``dataset.jsonl`` from elsewhere names, packed into a store once."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from vits_jax.data import audio_files, store
from vits_jax.errors import UserError

if TYPE_CHECKING:
    from vits_jax.data.manifest import VoiceConfig


def pack(
    directory: Path, parent: Path, config: VoiceConfig, names: Sequence[str], wheres: Sequence[str]
) -> tuple[store.Store, np.ndarray]:
    """The store of some files; written when it is not there, or when a file has changed.

    The audio is taken as it is: not resampled (a file of another rate is refused) and not
    trimmed.

    Args:
      directory: the prepared directory; relative paths begin there, or where they began
        for Piper, in the working directory.
      parent: where the store lies.
      config: gives the sample rate.
      names: ``audio_norm_path`` of each file, each once.
      wheres: file and line that first names it, for messages.

    Returns:
      The store, and the record of each file (int32 ``[files]``).

    Raises:
      UserError: a file is missing, empty, silent, undecodable or of another rate.
    """
    paths = [_find(directory, name, where) for name, where in zip(names, wheres, strict=True)]
    stats = [path.stat() for path in paths]
    sources = [
        [name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(names, stats, strict=True)
    ]
    settings = {"made by": "pack", "sample_rate": config.sample_rate}
    mark = store.fingerprint(settings, sources)
    target = store.store_path(parent, mark)
    if not store.is_whole(target):
        progress = tqdm(
            zip(paths, wheres, strict=True), "packing audio", len(paths), disable=None, unit="file"
        )
        try:
            store.build(parent, mark, config.sample_rate, _read_all(progress, config))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise UserError(
                f"{parent}: the audio files should be packed there, but: {error.strerror}"
            ) from error
    # Nothing is refused here (it would have raised), so record i is file i.
    return store.open_store(target), np.arange(len(paths), dtype=np.int32)


def _read_all(
    files: Iterator[tuple[Path, str]] | tqdm[tuple[Path, str]], config: VoiceConfig
) -> Iterator[np.ndarray]:
    for path, where in files:
        try:
            samples = _read(path, where, config)
            # Shorter than can be analysed is not broken: such utterances are left out by name.
            audio_files.check(samples, min_samples=1)
        except audio_files.AudioFault as error:
            raise UserError(f"{where}: audio_norm_path {path}: {error}") from error
        yield samples


def _read(path: Path, where: str, config: VoiceConfig) -> np.ndarray:
    """int16 ``[samples]`` of a file."""
    if path.suffix == ".npy":
        return _read_npy(path)
    audio, rate = audio_files.decode(path)
    if rate != config.sample_rate:
        raise UserError(
            f"{where}: {path} has {rate} samples per second, "
            f"{config.path} says {config.sample_rate}: run preprocess on the recordings"
        )
    return audio_files.to_int16(audio)


def _read_npy(path: Path) -> np.ndarray:
    """int16, or float in [-1, 1]; ``[samples]`` or ``[1, samples]``."""
    try:
        audio = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise audio_files.AudioFault("undecodable", "no array in it") from error
    if not isinstance(audio, np.ndarray) or audio.shape != (1,) * (audio.ndim - 1) + (audio.size,):
        raise audio_files.AudioFault("undecodable", "expected an array [samples] or [1, samples]")
    audio = audio.reshape(-1)
    if audio.dtype == np.int16:
        return audio
    if audio.dtype.kind != "f":
        raise audio_files.AudioFault("undecodable", f"{audio.dtype}, expected int16 or float")
    if not np.isfinite(audio).all():
        raise audio_files.AudioFault("not finite", "NaN or infinite samples")
    return audio_files.to_int16(audio)


def _find(directory: Path, name: str, where: str) -> Path:
    for path in (directory / name, Path(name)):
        if audio_files.is_file(path):
            if path.suffix == ".pt":
                raise UserError(
                    f"{where}: audio_norm_path {name!r} is a torch tensor, which is not read yet: "
                    "run preprocess on the recordings"
                )
            return path
    raise UserError(f"{where}: audio_norm_path {name!r} does not exist")
