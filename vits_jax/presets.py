"""The presets (`--quality`): where they are, and which one a voice was trained with.

They are in `configs/` in a checkout, inside the package in a wheel.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from vits_jax.config import FIELDS, Config, read_yaml
from vits_jax.errors import UserError
from vits_jax.flag_types import convert

# Of a preset's model, what the voice that comes of it does not have.
_TRAINING = ("p_dropout", "segment_size", "discriminator_width", "use_sdp")
# Presets of one network, by the highest rate in hertz that makes a voice the first of them.
_BY_RATE = ((("low", "medium"), 16000), (("high-44k", "high-48k"), 44100))


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


def preset(name: str) -> Config:
    """A configuration with the values of a preset.

    Raises:
        UserError: as `preset_path`; or the file cannot be read.
    """
    path = preset_path(name)
    return Config.from_dict({"preset": read_yaml(path)}, str(path))


def quality_of(config: Config) -> str | None:
    """What published voices call a voice's ``quality``: the preset of its sizes.

    ``x_low``, ``low``, ``medium``, ``high``; or ``demo``, ``high_44k``, ``high_48k``, which Piper
    has not. None for sizes of no preset.
    """
    model = vars(config.model)
    alike = [name for name in preset_names() if _sizes(name).items() <= model.items()]
    for names, rate in _BY_RATE:
        if set(alike) == set(names):
            alike = [names[config.audio.sample_rate > rate]]
    return alike[0].replace("-", "_") if alike else None


def _sizes(name: str) -> dict[str, Any]:
    path = preset_path(name)
    return {
        key: convert(value, FIELDS[key].type, f"{path}: {key}")
        for key, value in read_yaml(path).items()
        if key in FIELDS and FIELDS[key].section == "model" and key not in _TRAINING
    }
