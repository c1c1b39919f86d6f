"""``config.json``: what a dataset says of its voice, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vits_jax.errors import UserError
from vits_jax.text.languages import with_language_block


@dataclass(frozen=True)
class VoiceConfig:
    """What ``config.json`` says of the voice; `raw` is all of it, its ``language`` whole."""

    path: Path
    sample_rate: int
    num_symbols: int
    num_speakers: int
    speaker_id_map: dict[str, int]
    raw: dict[str, Any]

    @property
    def speaker_names(self) -> list[str]:
        """By id; the id itself where the map does not say."""
        names = {number: name for name, number in self.speaker_id_map.items()}
        return [names.get(speaker, str(speaker)) for speaker in range(self.num_speakers)]


def read_config(dataset_dir: str | Path) -> VoiceConfig:
    """Read and check a prepared directory's ``config.json``.

    Raises:
        UserError: the directory or the file is missing, or the file is not what it should be.
    """
    directory = Path(dataset_dir)
    if not directory.is_dir():
        raise UserError(
            f"{directory} is not a directory: --dataset-dir names what preprocess wrote"
        )
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist: preprocess writes it")
    return read_voice_config(path)


def read_voice_config(path: Path) -> VoiceConfig:
    """Read and check a ``config.json``, wherever it lies.

    Raises:
        UserError: the file is missing, or is not what it should be.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: expected the config.json of a dataset")
    raw = with_language_block(json_object(str(path), path.read_bytes()))
    audio = raw.get("audio")
    if not isinstance(audio, dict):
        raise UserError(f"{path}: no key 'audio' with a 'sample_rate' in it")
    speakers = raw.get("speaker_id_map") or {}
    if not isinstance(speakers, dict) or not all(is_integer(i) for i in speakers.values()):
        raise UserError(f"{path}: speaker_id_map should give each speaker's name a whole number")
    config = VoiceConfig(
        path=path,
        sample_rate=_positive(path, audio, "sample_rate", "audio.sample_rate"),
        num_symbols=_positive(path, raw, "num_symbols"),
        num_speakers=_positive(path, raw, "num_speakers"),
        speaker_id_map=speakers,
        raw=raw,
    )
    for name, number in speakers.items():
        if not 0 <= number < config.num_speakers:
            raise UserError(
                f"{path}: speaker_id_map gives {name!r} the id {number}, "
                f"num_speakers is {config.num_speakers}"
            )
    return config


def json_object(where: str, text: bytes) -> dict[str, Any]:
    """A JSON object; `where` is the line of a one-line text, or the file of a longer one.

    Raises:
        UserError: it is none.
    """
    try:
        value = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start + 1})") from error
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if where.endswith(".json") else ""
        raise UserError(
            f"{where}{line}: broken JSON: {error.msg} (column {error.colno})"
        ) from error
    except RecursionError as error:
        raise UserError(f"{where}: broken JSON: nested too deep") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object {{…}}, got {type(value).__name__}")
    return value


def required(where: str, entry: dict[str, Any], key: str, kind: type, meaning: str) -> Any:
    """The value of a key; `UserError` if it is missing, or is not of a kind."""
    if key not in entry:
        raise UserError(f"{where}: no key {key!r} ({meaning})")
    if not isinstance(entry[key], kind):
        raise UserError(f"{where}: {key} is {entry[key]!r}, expected {meaning}")
    return entry[key]


def _positive(path: Path, entry: dict[str, Any], key: str, shown: str | None = None) -> int:
    value = required(str(path), entry, key, object, "a whole number above 0")
    if not is_integer(value) or not 0 < value < 1 << 31:
        raise UserError(f"{path}: {shown or key} is {value!r}, expected a whole number above 0")
    return value


def is_integer(value: Any) -> bool:
    """Whether it is a whole number, as JSON has them: no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def language_of(dataset: Mapping[str, Any]) -> str | None:
    """``en-us``, or how else a voice's JSON calls it; None where it does not say."""
    for key, inner in (("espeak", "voice"), ("language", "code")):
        block = dataset.get(key)
        if isinstance(block, dict) and block.get(inner):
            return str(block[inner]).lower()
    return None
