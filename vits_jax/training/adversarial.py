"""What generator and discriminators want of each other: both losses, over their feature maps."""

from __future__ import annotations

from typing import NamedTuple

import jax

from vits_jax.config import OptimizerConfig
from vits_jax.model.arithmetic import total
from vits_jax.model.discriminator import Features
from vits_jax.training import losses
from vits_jax.training.losses import Rows

Terms = dict[str, jax.Array]


def halves(features: list[Features]) -> tuple[list[Features], list[Features]]:
    """Feature maps of real and generated audio, from those of both as one batch."""
    real = [[f[: f.shape[0] // 2] for f in maps] for maps in features]
    return real, [[f[f.shape[0] // 2 :] for f in maps] for maps in features]


class Adversarial(NamedTuple):
    """Losses of all discriminators, those of spectra with terms of their own, as Piper logs them.

    Attributes:
        weights: of the losses.
        number: of discriminators of waveforms; those of spectra come after them.
    """

    weights: OptimizerConfig
    number: int

    def of_discriminators(
        self, real: list[Features], generated: list[Features], rows: Rows
    ) -> tuple[jax.Array, Terms]:
        """Their loss ``[]``, and its terms: ``disc``, of those of spectra ``mrd_disc``."""
        terms = {}
        with jax.named_scope("discriminator_loss"):
            for prefix, (a, b) in self._kinds(real, generated).items():
                terms[f"{prefix}disc"] = losses.discriminator_loss(a, b, rows)
            return total(terms.values()), terms

    def of_generator(
        self, generated: list[Features], real: list[Features], rows: Rows
    ) -> tuple[jax.Array, Terms]:
        """Its loss ``[]``, and its terms: ``gen`` and ``fm``, of discriminators of spectra
        ``mrd_gen`` and ``mrd_fm``; those of feature maps with their weight."""
        terms: Terms = {}
        sums = []
        with jax.named_scope("adversarial_losses"):
            for prefix, (a, b) in self._kinds(real, generated).items():
                gen = losses.generator_loss(b, rows)
                fm = self.weights.c_fm * losses.feature_loss(a, b, rows)
                terms |= {f"{prefix}gen": gen, f"{prefix}fm": fm}
                sums.append(self.weights.c_gen * gen + fm)
            return total(sums), terms

    def _kinds(self, *of: list[Features]) -> dict[str, tuple[list[Features], ...]]:
        """Feature maps by the kind of discriminator: what its terms are called begins so."""
        own = {"": tuple(maps[: self.number] for maps in of)}
        more = tuple(maps[self.number :] for maps in of)
        return own | {"mrd_": more} if more[0] else own
