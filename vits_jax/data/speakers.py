"""Who speaks: one of a voice's speakers by name or number, or a mixture of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import numpy as np

from vits_jax.errors import UserError


def speaker_id(name: str | int | None, known: Mapping[str, int], count: int) -> int:
    """Number of a speaker; None is the first.

    Args:
        name: or number, as a number or a text. What is a name is not taken for a number.
        known: number of each speaker by name, of those that have one.
        count: so many speakers the voice has.

    Raises:
        UserError: there is no such speaker.
    """
    if name is None:
        return 0
    if isinstance(name, str):
        if name not in known and not name.isdecimal():
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else _all_of(known, count)
            raise UserError(f"no speaker {name!r} in this voice: {meant}")
        name = known[name] if name in known else int(name)
    if isinstance(name, bool) or not isinstance(name, (int, np.integer)):
        raise UserError(f"speaker id {name!r}: expected a whole number")
    if not 0 <= name < count:
        raise UserError(f"speaker id {name}: expected one from 0 to {count - 1}")
    return int(name)


def _all_of(known: Mapping[str, int], count: int) -> str:
    if count == 1:
        return "it has one, leave the speaker out"
    names = list(known)
    if not names:
        return f"it has ids from 0 to {count - 1}"
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"it has {', '.join(names[:10])}{more}"


def mixture(text: str, known: Mapping[str, int], count: int) -> dict[int, float]:
    """Shares of the speakers that a text names, by number; together they are 1.

    Args:
        text: ``anna``, ``3``, or parts such as ``anna=0.7,bob=0.3`` and ``anna=2,3=1``. What is
            a name as a whole is that speaker's.
        known, count: as of `speaker_id`.

    Raises:
        UserError: there is no such speaker, or a part is none.
    """
    if text in known or "=" not in text:
        return {speaker_id(text, known, count): 1.0}
    parts: dict[int, float] = {}
    for word in text.split(","):
        name, _, weight = (piece.strip() for piece in word.rpartition("="))
        if not name or not _is_part(weight):
            raise UserError(
                f"{word.strip()!r}: expected NAME=PART with a part above 0, "
                "such as anna=0.7,bob=0.3"
            )
        number = speaker_id(name, known, count)
        if number in parts:
            raise UserError(f"{word.strip()!r}: speaker {number} is named already")
        parts[number] = float(weight)
    largest = max(parts.values())  # so that no sum is too large for a float
    whole = math.fsum(part / largest for part in parts.values())
    return {number: part / largest / whole for number, part in parts.items()}


def _is_part(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) > 0
    except ValueError:
        return False
