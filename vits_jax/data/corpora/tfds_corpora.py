"""Prepared TFDS datasets of speech, converted once to a corpus in the ljspeech format.

Their audio feature needs TensorFlow. What comes of it does not: a converted corpus is read
again without.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class _Features:
    """Which features of a stock dataset hold what; all have ``id`` and ``speech``."""

    text: str
    speaker: str | None = None
    config: str | None = None  # where the user names none


CORPORA = {
    "ljspeech": _Features(text="text_normalized"),
    "libritts": _Features(text="text_normalized", speaker="speaker_id"),
    "vctk": _Features(text="text", speaker="speaker", config="mic1"),
}


def convert(spec: str, data_dir: Path | None, parent: Path) -> Path:
    """The corpus of a prepared dataset, as ``metadata.csv`` and FLAC files.

    Args:
        spec: ``ljspeech``, ``libritts`` or ``vctk``, with ``:config`` where it has several.
        data_dir: where TFDS prepared it (default: TFDS's own ``~/tensorflow_datasets``).
        parent: the corpus becomes a directory in it, unless it is there already.

    Raises:
        UserError: no such dataset, it is not prepared, or TensorFlow is not installed.
    """
    name, _, config = spec.partition(":")
    if name not in CORPORA:
        raise UserError(f"--tfds {spec}: expected one of {', '.join(CORPORA)}, or vctk:mic2")
    config = config or CORPORA[name].config or ""
    source = _prepared(spec, name, config, data_dir)
    # The description names every split, its shards and their sizes.
    mark = hashlib.sha256((source / "dataset_info.json").read_bytes()).hexdigest()[:8]
    shown = "-".join(part for part in ("tfds", name, config, source.name, mark) if part)
    corpus = parent / shown
    if (corpus / "metadata.csv").is_file():
        _LOGGER.info("converted before: %s", corpus)
        return corpus
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"--tfds {spec} needs TensorFlow to read {source}: pip install 'vits_jax[tensorflow]'"
        )
    temporary = parent / f".{shown}.new"
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        (temporary / "wavs").mkdir(parents=True)
        _write(_open(source), CORPORA[name], temporary)
        shutil.rmtree(corpus, ignore_errors=True)
        temporary.rename(corpus)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return corpus


def _prepared(spec: str, name: str, config: str, data_dir: Path | None) -> Path:
    """The newest prepared version."""
    root = data_dir or Path(os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets"))
    folder = root / name / config if config else root / name
    versions = [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if _VERSION.fullmatch(path.name) and (path / "dataset_info.json").is_file()
    ]
    if not versions:
        full = f"{name}/{config}" if config else name
        raise UserError(
            f"--tfds {spec}: {folder} holds no prepared version: prepare it with "
            f"`tfds build {full} --data_dir {root}`, or name its data_dir with --input-dir"
        )
    return max(versions, key=lambda path: [int(number) for number in path.name.split(".")])


def _open(source: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(source)


def _examples(builder: Any) -> Iterator[dict[str, Any]]:
    """Every example of every split, always in the same order."""
    import tensorflow_datasets as tfds

    for split in sorted(builder.info.splits):
        if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            yield from builder.as_data_source(split)
        else:
            dataset = builder.as_dataset(
                split=split,
                shuffle_files=False,
                read_config=tfds.ReadConfig(interleave_cycle_length=1),
            )
            yield from tfds.as_numpy(dataset)


def _write(builder: Any, features: _Features, directory: Path) -> None:
    rate = builder.info.features["speech"].sample_rate
    total = sum(split.num_examples for split in builder.info.splits.values())
    lines, names, changed = [], set(), 0
    for example in tqdm(_examples(builder), "converting", total, disable=None, unit="utt"):
        name = stem = re.sub(r"[^\w.-]", "_", _text(example["id"])) or "unnamed"
        number = 1
        while name in names:
            name, number = f"{stem}_{number}", number + 1
        names.add(name)
        _write_audio(directory / "wavs" / f"{name}.flac", example["speech"], rate)
        columns = [f"{name}.flac"]
        if features.speaker is not None:
            speaker = example[features.speaker]
            feature = builder.info.features[features.speaker]
            columns.append(str(getattr(feature, "int2str", str)(int(speaker))))
        text = _text(example[features.text])
        # A row is a line, and bars divide it.
        columns.append(re.sub(r"[|\r\n\0]+", " ", text))
        changed += columns[-1] != text
        lines.append("|".join(columns) + "\n")
    if changed:
        _LOGGER.warning("warning: in %d texts, bars and line ends became spaces", changed)
    (directory / "metadata.csv").write_text("".join(lines), encoding="utf-8")


def _write_audio(path: Path, audio: Any, rate: int) -> None:
    """int16, whatever type holds it; float in [-1, 1]."""
    samples = np.asarray(audio).reshape(-1)
    if samples.dtype.kind != "f":
        samples = np.clip(samples, -32768, 32767).astype(np.int16)
    soundfile.write(path, samples, rate, subtype="PCM_16")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
