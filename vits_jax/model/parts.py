"""Parts of a model by the names that users know them by: how fast each learns, or not at all.

A part is a name of `PARTS` (Piper's; all discriminators are one), or a pattern of tensor names
such as ``dec.ups.*`` (`fnmatch`).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model import kept
from vits_jax.model.networks import GENERATOR, parameter_shapes

DISCRIMINATORS = "discriminators"
Networks = Mapping[str, Iterable[str]]  # names of tensors, by network
PARTS = ("enc_p", "enc_q", "flow", "dp", "dec", "emb_g", DISCRIMINATORS)


def rates_of(config: Config) -> dict[str, float]:
    """By part, the factor of its learning rate (``--part-rates``)."""
    pairs = (word.rpartition("=") for word in config.optimizer.part_rates)
    return {part.strip(): float(factor) for part, _, factor in pairs}


@functools.lru_cache(maxsize=16)
def frozen(config: Config) -> Mapping[str, frozenset[str]]:
    """By network, the tensors that do not learn: no gradients, no moments.

    Those of ``--freeze``, and what ``--keep-speakers hold`` holds.
    """
    shapes, held = parameter_shapes(config), kept.held(config)
    found = parts_by_tensor(shapes, config.optimizer.freeze)
    return {
        network: frozenset(found.get(network, ())) | held.get(network, frozenset())
        for network in shapes
    }


def check_frozen(config: Config) -> None:
    """Raise `UserError` where ``--freeze`` names no part of this model, or all of the generator."""
    shapes = parameter_shapes(config)
    check_parts(shapes, config.optimizer.freeze, "--freeze")
    if frozen(config)[GENERATOR] == shapes[GENERATOR].keys():
        also = " with --keep-speakers hold" if kept.held(config) else ""
        raise UserError(
            f"--freeze {','.join(config.optimizer.freeze)}{also}: that is all of the generator: "
            "expected something left to learn"
        )


def parts_by_tensor(networks: Networks, parts: Iterable[str]) -> dict[str, dict[str, str]]:
    """``{network: {tensor: part}}`` of what is in one of some parts; the last one named wins."""
    found: dict[str, dict[str, str]] = {}
    for part in parts:
        for network, names in networks.items():
            own = dict.fromkeys(_matching(part, network, names), part)
            found.setdefault(network, {}).update(own)
    return found


def has_part(networks: Networks, part: str) -> bool:
    """Whether a tensor of them is in it."""
    return any(_matching(part, network, names) for network, names in networks.items())


def check_parts(
    networks: Networks, parts: Iterable[str], flag: str, whose: str = "this model"
) -> None:
    """Raise `UserError` for the first that has no tensor, in the words of the flag that named it.

    Args:
        networks: names of tensors, by network.
        parts: names.
        flag: that named them.
        whose: the networks are.
    """
    for part in parts:
        if not has_part(networks, part):
            close = difflib.get_close_matches(part, PARTS, 1)
            meant = (
                f"did you mean {close[0]}?" if close else "a pattern of tensor names may end in *"
            )
            raise UserError(
                f"{flag} {part}: {whose} has no such part: expected one of "
                f"{', '.join(PARTS)}, or tensors' names ({meant})"
            )


def _matching(part: str, network: str, names: Iterable[str]) -> list[str]:
    if part in PARTS:
        return [name for name in names if _part_of(network, name) == part]
    return [name for name in names if fnmatchcase(name, part)]


def _part_of(network: str, name: str) -> str:
    return name.partition(".")[0] if network == GENERATOR else DISCRIMINATORS
