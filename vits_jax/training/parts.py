"""Parts of a model by the names that users know them by, and how fast each learns.

A part is a name of `PARTS` (Piper's; all discriminators are one), or a pattern of tensor names
such as ``dec.ups.*`` (`fnmatch`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.networks import GENERATOR, parameter_shapes

DISCRIMINATORS = "discriminators"
PARTS = ("enc_p", "enc_q", "flow", "dp", "dec", "emb_g", DISCRIMINATORS)


def rates_of(config: Config) -> dict[str, float]:
    """By part, the factor of its learning rate (``--part-rates``)."""
    pairs = (word.rpartition("=") for word in config.optimizer.part_rates)
    return {part.strip(): float(factor) for part, _, factor in pairs}


def parts_by_tensor(config: Config) -> dict[str, dict[str, str]]:
    """``{network: {tensor: part}}`` of what has a rate of its own; the last part named wins.

    Raises:
        UserError: a part is none of this model's.
    """
    return named_parts(rates_of(config), parameter_shapes(config), "--part-rates", "this model")


def named_parts(
    parts: Iterable[str], networks: Mapping[str, Iterable[str]], flag: str, whose: str
) -> dict[str, dict[str, str]]:
    """``{network: {tensor: part}}`` of networks' tensors; the last part named wins.

    Raises:
        UserError: a part has no tensor; in the words of the flag, and of whose parts they are.
    """
    found: dict[str, dict[str, str]] = {}
    for part in parts:
        there = False
        for network, names in networks.items():
            own = dict.fromkeys(_matching(part, network, names), part)
            found.setdefault(network, {}).update(own)
            there = there or bool(own)
        if not there:
            close = difflib.get_close_matches(part, PARTS, 1)
            meant = (
                f"did you mean {close[0]}?" if close else "a pattern of tensor names may end in *"
            )
            raise UserError(
                f"{flag} {part}: {whose} has no such part: expected one of "
                f"{', '.join(PARTS)}, or tensors' names ({meant})"
            )
    return found


def _matching(part: str, network: str, names: Iterable[str]) -> list[str]:
    if part in PARTS:
        return [name for name in names if _part_of(network, name) == part]
    return [name for name in names if fnmatchcase(name, part)]


def _part_of(network: str, name: str) -> str:
    return name.partition(".")[0] if network == GENERATOR else DISCRIMINATORS
