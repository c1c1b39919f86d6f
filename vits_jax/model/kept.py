"""What of a voice with several speakers stays as it was while others join (``--keep-speakers``).

``hold``: every tensor that the warm start took does not learn (`parts.frozen`), nor do the old
speakers' rows of their table. A number: the generator's tensors are pulled back to where they
began, their *anchors*, as strongly as it says (L2-SP: Li et al. 2018, "Explicit inductive bias
for transfer learning with convolutional networks"); the rows do not learn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vits_jax.config import HOLD, OFF, Config
from vits_jax.model.networks import GENERATOR, parameter_shapes

SPEAKERS = "emb_g.weight"
"""The table of the speakers, a row each, of the generator."""


def strength(config: Config) -> float | None:
    """Of the pull to the anchors, a second factor of the learning rate; None: there is none."""
    asked = config.optimizer.keep_speakers
    return None if asked in (OFF, HOLD) else float(asked)


def held(config: Config) -> Mapping[str, frozenset[str]]:
    """By network, tensors that do not learn at all."""
    if config.optimizer.keep_speakers != HOLD:
        return {}
    return {network: _taken(config, network) for network in parameter_shapes(config)}


def anchored(config: Config) -> frozenset[str]:
    """The generator's tensors that are pulled back.

    Discriminators are not: nobody hears them, and they are most of what there is to store.
    """
    return frozenset() if strength(config) is None else _taken(config, GENERATOR)


def held_rows(config: Config) -> np.ndarray | None:
    """Of the speakers' table, those that do not learn, bool ``[speakers, 1]``; None: all do."""
    if config.optimizer.keep_speakers == OFF:
        return None
    rows = np.zeros((config.model.num_speakers, 1), np.bool_)
    rows[list(config.optimizer.kept_speakers)] = True
    return rows


def _taken(config: Config, network: str) -> frozenset[str]:
    """All but what began fresh, and the speakers' table."""
    fresh = {SPEAKERS} if network == GENERATOR else set()
    for full in config.optimizer.kept_fresh:
        own, _, name = full.partition(".")
        fresh |= {name} if own == network else set()
    return frozenset(parameter_shapes(config)[network].keys() - fresh)
