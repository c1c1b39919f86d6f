"""Why a recording is not used: small, because worker processes import and return it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refused:
    """A recording that did not become a record.

    Attributes:
      kind: the reason without its numbers, to count by: ``too short``.
      reason: the reason in full.
    """

    kind: str
    reason: str
