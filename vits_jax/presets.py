"""Where the presets (`--quality`) are: `configs/` in a checkout, inside the package in a wheel."""

from __future__ import annotations

import difflib
from pathlib import Path

from vits_jax.errors import UserError


def _directory() -> Path:
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    """The values of `--quality`, sorted."""
    return sorted(path.stem for path in _directory().glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The YAML file of a preset.

    Raises:
        UserError: no preset has that name; the message lists those there are.
    """
    names = preset_names()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise UserError(
            f"--quality: no preset {name!r} in {_directory()}: {hint}"
            f"expected one of {', '.join(names)}, or --config FILE for a file of your own"
        )
    return _directory() / f"{name}.yaml"
