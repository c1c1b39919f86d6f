"""What a distribution asks for by its own metadata, and what of that is installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "vits_jax"


class Package(NamedTuple):
    """A distribution that another asks for.

    Attributes:
        asked: what is asked for, as pip takes it.
        name: its name.
        found: the version that is installed; None: none is.
        fits: whether that is one of those that are asked for.
        by: who asks.
    """

    asked: str
    name: str
    found: str | None
    fits: bool
    by: str


def extras(distribution: str = OURS) -> list[str]:
    """The extras that there are."""
    return importlib.metadata.metadata(distribution).get_all("Provides-Extra") or []


def asked(distribution: str, extra: str = "") -> list[Requirement]:
    """What a distribution asks for on this machine, without its extras or for one of them alone."""
    found = []
    for line in importlib.metadata.requires(distribution) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if extra and marker is not None:
            wanted = not always and marker.evaluate({"extra": extra})
        else:
            wanted = always and not extra
        if wanted:
            found.append(requirement)
    return found


def below(requirements: Iterable[Requirement], by: str = OURS) -> Iterator[Package]:
    """What `by` asks for, and what that asks for in turn; nothing of what does not fit."""
    return _below(by, requirements, set())


def _below(
    by: str, requirements: Iterable[Requirement], seen: set[tuple[str, str]]
) -> Iterator[Package]:
    for requirement in requirements:
        package = _look(requirement, by)
        yield package
        if not package.fits:
            continue
        for extra in ("", *sorted(requirement.extras)):
            key = (canonicalize_name(requirement.name), extra)
            if key not in seen:
                seen.add(key)
                yield from _below(requirement.name, asked(requirement.name, extra), seen)


def _look(requirement: Requirement, by: str) -> Package:
    brackets = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    text = f"{requirement.name}{brackets}{requirement.specifier}"
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Package(text, requirement.name, None, False, by)
    fits = requirement.specifier.contains(found, prereleases=True)
    return Package(text, requirement.name, found, fits, by)
