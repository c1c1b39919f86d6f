"""Audio files that a ``dataset.jsonl`` from elsewhere names, packed into a store once."""

from __future__ import annotations

import errno
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vits_jax.data.corpora import audio_files, torch_audio
from vits_jax.data.storage import building, store
from vits_jax.data.voice_config import VoiceConfig
from vits_jax.errors import UserError


def pack(
    directory: Path, parent: Path, config: VoiceConfig, names: Sequence[str], wheres: Sequence[str]
) -> tuple[store.Store, np.ndarray]:
    """The store of some files; written when it is not there, or when a file has changed.

    The audio is taken as it is: not resampled (a file of another rate is refused) and not
    trimmed.

    Args:
        directory: the prepared directory; see `find_file`.
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
        settings_mark = store.fingerprint(settings, [])
        recordings = functools.partial(_read_all, list(zip(paths, wheres, strict=True)), config)
        try:
            building.build(target, config.sample_rate, recordings, settings_mark)
            building.remove_unfinished(parent, settings_mark)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise UserError(
                f"{parent}: the audio files should be packed there, but: {error.strerror}"
            ) from error
    # Nothing is refused here (it would have raised), so record i is file i.
    return store.open_store(target), np.arange(len(paths), dtype=np.int32)


def _read_all(
    files: list[tuple[Path, str]], config: VoiceConfig, start: int
) -> Iterator[audio_files.Recording]:
    """The files from a number on."""
    progress = tqdm(
        files[start:], "packing audio", len(files), initial=start, disable=None, unit="file"
    )
    for path, where in progress:
        try:
            yield read_file(path, config.sample_rate)
        except audio_files.AudioFault as error:
            if error.kind == "wrong rate":
                raise UserError(f"{where}: {error}: run preprocess on the recordings") from error
            raise UserError(f"{where}: audio_norm_path {path}: {error}") from error


def read_file(path: Path, sample_rate: int) -> audio_files.Recording:
    """A file that a ``dataset.jsonl`` names, as it is.

    Args:
        path: ``.npy``, Piper's ``.pt``, or what libsndfile reads.
        sample_rate: hertz, as ``config.json`` says; tensors do not say theirs.

    Raises:
        AudioFault: empty, silent, undecodable or of another rate. Shorter than can be analysed
          is not broken: such utterances are left out by name.
        UserError: a ``.pt`` file, and no torch.
    """
    if path.suffix in (".npy", ".pt"):
        samples = _as_int16(_load_npy(path) if path.suffix == ".npy" else torch_audio.read(path))
        clipped = 0
    else:
        audio, rate, clipped = audio_files.decode(path)
        if rate != sample_rate:
            raise audio_files.AudioFault(
                "wrong rate",
                f"{path} has {rate} samples per second, config.json says {sample_rate}",
            )
        samples = audio_files.to_int16(audio)
    audio_files.check(samples, min_samples=1)
    return audio_files.Recording(samples, sample_rate, clipped, math.nan)


def _load_npy(path: Path) -> np.ndarray:
    try:
        audio = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise audio_files.AudioFault("undecodable", "no array in it") from error
    if not isinstance(audio, np.ndarray):
        raise audio_files.AudioFault("undecodable", "several arrays, expected one")
    return audio


def _as_int16(audio: np.ndarray) -> np.ndarray:
    """int16, or float in [-1, 1]; ``[samples]`` or ``[1, samples]``."""
    if audio.shape != (1,) * (audio.ndim - 1) + (audio.size,):
        raise audio_files.AudioFault("undecodable", "expected an array [samples] or [1, samples]")
    audio = audio.reshape(-1)
    if audio.dtype == np.int16:
        return audio
    if audio.dtype.kind != "f":
        raise audio_files.AudioFault("undecodable", f"{audio.dtype}, expected int16 or float")
    if not np.isfinite(audio).all():
        raise audio_files.AudioFault("not finite", "NaN or infinite samples")
    if np.abs(audio).max(initial=0) > 1e6:
        raise audio_files.AudioFault("undecodable", "samples far beyond -1 to 1")
    return audio_files.to_int16(audio)


def find_file(directory: Path, name: str) -> Path | None:
    """A file that a ``dataset.jsonl`` names.

    Relative paths begin in the prepared directory, or where they began for Piper, in the
    working directory. Of an absolute path into a directory that was moved since (Piper
    writes such paths), the end is looked for: ``…/cache/22050/x.pt``.
    """
    path = Path(name)
    for candidate in (directory / path, path):
        if audio_files.is_file(candidate):
            return candidate
    # A folder at least has to agree, or another recording of the same name would do.
    for length in range(len(path.parts) - 1, 1, -1) if path.is_absolute() else ():
        moved = directory.joinpath(*path.parts[-length:])
        if audio_files.is_file(moved):
            return moved
    return None


def _find(directory: Path, name: str, where: str) -> Path:
    path = find_file(directory, name)
    if path is None:
        raise UserError(f"{where}: audio_norm_path {name!r} does not exist")
    return path
