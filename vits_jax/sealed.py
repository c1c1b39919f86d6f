"""What tells when it was damaged: JSON that holds the SHA-256 of the rest of it; files' digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SEAL = "sha256"


def seal(content: Mapping[str, Any]) -> str:
    """An object as JSON, with its seal."""
    return json.dumps({**content, _SEAL: _digest(content)})


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Whether an object that was read has a seal, broken or not."""
    return _SEAL in content


def unseal(text: str) -> dict[str, Any]:
    """The object, without its seal.

    Raises:
        ValueError: it has none, or not the one it should have.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.pop(_SEAL, None) != _digest(content):
        raise ValueError("its content is not what was written")
    return content


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
