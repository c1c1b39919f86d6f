"""What of the networks learns in a step, and how fast: by network and tensor."""

from __future__ import annotations

from typing import Any

from vits_jax.config import Config
from vits_jax.model import kept
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.model.parameters import Parameters
from vits_jax.model.parts import frozen, parts_by_tensor, rates_of
from vits_jax.training import recovery
from vits_jax.training.schedule import Rates


def learning(config: Config, params: dict[str, Parameters]) -> dict[str, Parameters]:
    """By network, what is not frozen."""
    none = frozen(config)
    return {
        network: {name: p for name, p in own.items() if name not in none[network]}
        for network, own in params.items()
    }


def factors(config: Config, rates: Rates) -> dict[str, Parameters]:
    """Of the learning rate, by network and tensor, of those that have one."""
    found: dict[str, Parameters] = {}
    # A tree's keys come sorted: in which order parts are named, the configuration knows.
    for kind, parts in (("parts", tuple(rates_of(config))), ("recovery", recovery.PARTS)):
        of_part = rates.get(kind)
        if of_part is None:
            continue
        for network, own in parts_by_tensor(parameter_shapes(config), parts).items():
            of_network = found.setdefault(network, {})
            for name, part in own.items():
                factor = of_part[part]
                of_network[name] = of_network[name] * factor if name in of_network else factor
    return found


def keeping(config: Config, network: str) -> dict[str, Any]:
    """What `optimizer.update` is told, besides anchors, of what stays as it was (`kept`)."""
    rows = kept.held_rows(config)
    if network != GENERATOR or rows is None:
        return {}
    return {"strength": kept.strength(config), "held": {kept.SPEAKERS: rows}}
