#!/usr/bin/env python3
"""docs/licences.md: under which licences the dependencies are, by their own metadata.

    tools/licences.py

Run it in the environment of the tests, which has nearly all of them.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vits_jax.doctor.packages import OURS, below

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "licences.md"

# What that environment has not: by the metadata in the registry.
ELSEWHERE = {
    "gcsfs": "BSD License",
    "jax[cuda12]": "Apache-2.0; brings NVIDIA's libraries, under NVIDIA's own terms",
    "jax[tpu]": "Apache-2.0; brings libtpu, under the Google Cloud Platform Terms of Service",
    "tensorflow": "Apache Software License",
}
# Whose metadata does not say it: by what is in it.
SPOKEN_FOR = {
    "espeakng-loader": "not said in the metadata; brings espeak-ng, under GPL-3.0-or-later",
    "pyworld-prebuilt": "MIT License",
}
_HEAD = """\
# Licences

vits_jax is under Apache-2.0. What it needs is under these, as the metadata of each distribution
says: that is no legal advice. Made by `tools/licences.py`.

`piper-tts` is under GPL-3.0; `[preprocess]` and `[test]` bring it. `[audio]` prepares without it:
[what that takes](package.md#without-piper-tts).
"""


def groups() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for: always, and for each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {"": project["dependencies"], **project["optional-dependencies"]}
    parsed = {name: [Requirement(line) for line in lines] for name, lines in named.items()}
    ours = canonicalize_name(OURS)
    return {
        name: [r for r in lines if canonicalize_name(r.name) != ours]
        for name, lines in parsed.items()
    }


def called(requirement: Requirement) -> str:
    """Its name, with the extras that bring more along."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}"


def licence(name: str) -> str:
    """By the metadata: the expression, else the classifiers, else the first line of the text.

    Raises:
        KeyError: it says nothing, or the distribution is not installed.
    """
    if name in SPOKEN_FOR:
        return SPOKEN_FOR[name]
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise KeyError(name) from error
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classifiers = metadata.get_all("Classifier") or []
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    named = [n for n in named if n != "OSI Approved"]
    if named:
        return ", ".join(named)
    first = (metadata["License"] or "").strip().splitlines()[:1] if "License" in metadata else []
    if not first or len(first[0]) > 60:
        raise KeyError(name)
    return first[0]


def page() -> str:
    """The whole of it."""
    lines = [_HEAD]
    direct = set()
    for group, requirements in groups().items():
        if not requirements:
            continue
        lines.append(f"\n## {f'`[{group}]`' if group else 'Always'}\n")
        lines += ["| distribution | licence |", "|---|---|"]
        for requirement in sorted(requirements, key=lambda r: r.name.lower()):
            direct.add(canonicalize_name(requirement.name))
            name = called(requirement)
            said = ELSEWHERE.get(name) or licence(requirement.name)
            lines.append(f"| `{name}` | {said} |")
    lines.append("\n## What these bring along in turn\n")
    lines.append("On Linux, without the extras `gcs`, `tensorflow`, `cuda` and `tpu`.\n")
    by_licence = defaultdict(list)
    for name in sorted(set(_brought()) - direct):
        try:
            by_licence[licence(name)].append(name)
        except KeyError:
            by_licence["not said in the metadata"].append(name)
    for said, names in sorted(by_licence.items()):
        lines.append(f"- {said}: {', '.join(names)}")
    return "\n".join(lines) + "\n"


def _brought() -> Iterator[str]:
    wanted = [r for lines in groups().values() for r in lines if called(r) not in ELSEWHERE]
    for package in below(wanted):
        if package.found is not None:
            yield canonicalize_name(package.name)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
