"""The parts that a model is made of, by the names that users know them by.

Piper's names: text encoder, posterior encoder, flow, duration predictor, decoder, speakers'
embeddings, and all discriminators together.
"""

from __future__ import annotations

from collections.abc import Iterable

from vits_jax.model.networks import GENERATOR

DISCRIMINATORS = "discriminators"
PARTS = ("enc_p", "enc_q", "flow", "dp", "dec", "emb_g", DISCRIMINATORS)


def part_of(network: str, name: str) -> str:
    """Of `PARTS`, the one that a network's tensor belongs to."""
    return name.partition(".")[0] if network == GENERATOR else DISCRIMINATORS


def parts_of(network: str, names: Iterable[str]) -> dict[str, str]:
    """By tensor, its part."""
    return {name: part_of(network, name) for name in names}
