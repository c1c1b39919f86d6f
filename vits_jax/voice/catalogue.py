"""Where clients look for a voice: the layout and the list of ``rhasspy/piper-voices``.

Piper's downloader and wyoming-piper make an address of a voice's key, ``en_US-anna-medium``:
``en/en_US/anna/medium/en_US-anna-medium.onnx``. ``voices.json`` lists what there is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vits_jax.data.voice_config import json_object
from vits_jax.errors import UserError
from vits_jax.text.languages import language_block

LIST = "voices.json"
CARD = "MODEL_CARD"
_QUALITY = re.compile(r"[A-Za-z0-9_]+")  # a folder, and a part of an address


@dataclass(frozen=True)
class Listing:
    """What its maker says of a voice that is published.

    Attributes:
        name: letters, digits and ``_``.
        language: espeak-ng's voice or another tag; None: what the checkpoint says.
        quality: likewise.
        licence: an identifier of Hugging Face's list, or the address of a text.
        dataset_url: where the recordings are.
        base: what it began with: a voice of Piper's, a model of Hugging Face's, or an address.
        samples: what each speaker says to be heard; None: nothing.
        evaluation: of ``vits-jax evaluate --json``, the part about this voice (`cards.evaluated`).
    """

    name: str
    language: str | None = None
    quality: str | None = None
    licence: str | None = None
    dataset_url: str | None = None
    base: str | None = None
    samples: str | None = None
    evaluation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Place:
    """Where a voice is in a tree of voices."""

    root: Path
    name: str
    language: Mapping[str, str]
    quality: str

    @property
    def key(self) -> str:
        """What clients call it."""
        return f"{self.language['code']}-{self.name}-{self.quality}"

    @property
    def folder(self) -> Path:
        """All files of the voice."""
        return (
            self.root / self.language["family"] / self.language["code"] / self.name / self.quality
        )

    @property
    def graph(self) -> Path:
        """The ``.onnx``."""
        return self.folder / f"{self.key}.onnx"

    def within(self, path: Path) -> str:
        """A file's name in addresses and in the list."""
        return path.relative_to(self.root).as_posix()


def place(root: Path, config: Mapping[str, Any], listing: Listing) -> Place:
    """Where the voice of a JSON goes.

    Raises:
        UserError: neither the JSON nor the listing says its language or its quality.
    """
    quality = listing.quality or (config.get("audio") or {}).get("quality")
    if not quality:
        raise UserError("the voice has the sizes of no preset: name its quality with --quality")
    if not _QUALITY.fullmatch(str(quality)):
        raise UserError(
            f"the voice's quality is called {quality!r}: name one for clients with --quality"
        )
    return Place(root, listing.name, _language(config, listing), str(quality))


def voice_config(config: Mapping[str, Any], where: Place) -> dict[str, Any]:
    """The voice's JSON as published ones are: ``dataset`` is the name alone."""
    audio = dict(config["audio"]) | {"quality": where.quality}
    return dict(config) | {"dataset": where.name, "audio": audio, "language": dict(where.language)}


def read_list(root: Path) -> dict[str, Any]:
    """The entries of a tree's ``voices.json``; none where there is no such file.

    Raises:
        UserError: it is no JSON object.
    """
    path = root / LIST
    try:
        return json_object(str(path), path.read_bytes())
    except FileNotFoundError:
        return {}


def entry(
    where: Place, config: Mapping[str, Any], contents: Mapping[Path, bytes], before: Any
) -> dict[str, Any]:
    """What the list says of a voice.

    Args:
        where: its place.
        config: its JSON.
        contents: the files that clients fetch.
        before: the entry that was there: old names are kept.
    """
    aliases = before.get("aliases") if isinstance(before, dict) else None
    return {
        "key": where.key,
        "name": where.name,
        "language": dict(where.language),
        "quality": where.quality,
        "num_speakers": config["num_speakers"],
        "speaker_id_map": config["speaker_id_map"],
        "files": {
            where.within(path): {
                "size_bytes": len(content),
                "md5_digest": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            }
            for path, content in contents.items()
        },
        "aliases": aliases or [],
    }


def list_json(entries: Mapping[str, Any]) -> bytes:
    """``voices.json``, sorted by key."""
    ordered = {key: entries[key] for key in sorted(entries)}
    return (json.dumps(ordered, ensure_ascii=False, indent=4) + "\n").encode()


def _language(config: Mapping[str, Any], listing: Listing) -> dict[str, str]:
    """The whole block."""
    kind = str(config.get("phoneme_type") or "espeak")
    if listing.language is not None:
        block = language_block(listing.language, kind)
        if "family" not in block:
            raise UserError(
                f"--language {listing.language}: no language that is known: expected a tag such as "
                "en-us or nl_BE"
            )
        return block
    said = config.get("language")
    said = dict(said) if isinstance(said, dict) else {}
    code = str(said.get("code") or "")
    block = language_block(code, kind) | said
    if "family" not in block or code != f"{block['family']}_{block.get('region')}":
        raise UserError(
            f"the checkpoint says its language is {code or 'none'}, expected one such as en_US: "
            "name it with --language"
        )
    return block
