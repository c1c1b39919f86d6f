"""Where a speaker goes in a model with one: into biases.

The model hears a speaker through 1x1 convolutions of an embedding. For one speaker each gives a
vector, the same at every position, and it is added to something that has a bias. So the vector
goes into the bias, and the convolution and the embedding are not needed any more:

==================  ====================================================================
``dec.cond``        ``dec.conv_pre.bias``
``….cond_layer``    ``….in_layers.N.bias``, each its part (posterior encoder, couplings)
``dp.cond``         ``dp.pre.bias``, of the stochastic duration predictor
==================  ====================================================================

The plain duration predictor adds its vector *before* a convolution that pads with zeros: a bias of
that convolution would be wrong at both ends of each text. But what it is added to, the hidden
text, comes out of a norm whose ``beta`` is as good a bias (the last of
``enc_p.encoder.norm_layers_2``), before the mask as well. There is one other that hears the hidden
text, ``enc_p.proj``: its own bias takes back what comes to it.

So the function is the same, and what is different is rounding.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vits_jax.checkpoints.warm_start import hears_speaker
from vits_jax.model.weight_norm import weight_norm

EMBEDDING = "emb_g.weight"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Fold:
    """Where a convolution of the speaker's embedding goes.

    Attributes:
        layer: the convolution, ``dec.cond``.
        biases: what its output is added to; of several, each takes its part, in this order.
        unheard_by: a 1x1 convolution that hears what is shifted and should not.
    """

    layer: str
    biases: tuple[str, ...]
    unheard_by: str | None = None

    @property
    def changed(self) -> tuple[str, ...]:
        """Every tensor that is another afterwards."""
        return self.biases if self.unheard_by is None else (*self.biases, f"{self.unheard_by}.bias")

    def apply(self, parameters: Mapping[str, np.ndarray], g: np.ndarray) -> Arrays:
        """What changes: `changed`, in float32.

        Args:
            parameters: the generator's.
            g: the speaker's embedding ``[G]``, float64.
        """
        parts = np.split(_convolved(parameters, self.layer, g), len(self.biases))
        new = {name: parameters[name] + part for name, part in zip(self.biases, parts)}
        if self.unheard_by is not None:
            (shift,) = parts
            bias = f"{self.unheard_by}.bias"
            heard = parameters[f"{self.unheard_by}.weight"].astype(np.float64)[:, :, 0] @ shift
            new[bias] = parameters[bias] - heard
        return {name: array.astype(np.float32) for name, array in new.items()}


def _convolved(parameters: Mapping[str, np.ndarray], layer: str, g: np.ndarray) -> np.ndarray:
    """What a 1x1 convolution makes of ``g [G]``: ``[C]``, in float64."""

    def of(name: str) -> Any:
        return parameters[f"{layer}.{name}"].astype(np.float64)

    if f"{layer}.weight" in parameters:
        weight = of("weight")
    else:
        weight = weight_norm(of("weight_g"), of("weight_v"))
    return np.asarray(weight[:, :, 0] @ g + of("bias"))


def folds(names: Collection[str]) -> list[Fold]:
    """Those of a generator with several speakers, by the names of its parameters."""
    layers = dict.fromkeys(
        name.rpartition(".")[0] for name in names if hears_speaker(name) and name != EMBEDDING
    )
    return [fold for layer in layers if (fold := _fold(layer, names)) is not None]


def _fold(layer: str, names: Collection[str]) -> Fold | None:
    module, _, kind = layer.rpartition(".")
    if kind == "cond_layer":
        return Fold(layer, _numbered(names, rf"{re.escape(module)}\.in_layers\.(\d+)\.bias"))
    if layer == "dec.cond":
        return Fold(layer, ("dec.conv_pre.bias",))
    if layer == "dp.cond" and "dp.pre.bias" in names:
        return Fold(layer, ("dp.pre.bias",))
    if layer == "dp.cond":
        last = _numbered(names, r"enc_p\.encoder\.norm_layers_2\.(\d+)\.beta")[-1]
        return Fold(layer, (last,), unheard_by="enc_p.proj")
    return None


def _numbered(names: Collection[str], pattern: str) -> tuple[str, ...]:
    """Those that match, in the order of their number."""
    found = [match for name in names if (match := re.fullmatch(pattern, name))]
    return tuple(match.group() for match in sorted(found, key=lambda match: int(match.group(1))))
