"""Utterances that are not used, or look wrong: each with a name and a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LeftOut:
    """An utterance that will not be used, or is used and looks wrong.

    Attributes:
      where: file and line, such as ``metadata.csv:12``.
      name: the utterance's own name.
      kind: the reason without its numbers, to count by: ``too short``.
      reason: the reason in full: ``too short: 300 samples, at least 385 are needed``.
    """

    where: str
    name: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.name}: {self.reason}"


def describe(
    left_out: Sequence[LeftOut], limit: int | None = None, what: str = "left out"
) -> Iterator[str]:
    """Lines that tell what was left out: the counts by reason, then every utterance.

    Args:
      left_out: what was left out; nothing gives no line.
      limit: name at most so many utterances, and say how many more there are.
      what: happened to them.
    """
    if not left_out:
        return
    counts = Counter(item.kind for item in left_out)
    reasons = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    yield f"{what} {len(left_out)}: {reasons}"
    for item in left_out[:limit]:
        yield f"  {item}"
    if limit is not None and len(left_out) > limit:
        yield f"  and {len(left_out) - limit} more"
