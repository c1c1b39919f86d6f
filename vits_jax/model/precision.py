"""Which numbers a program computes with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclass(frozen=True)
class Precision:
    """Types of numbers, of training or of speaking.

    Attributes:
        params: of parameters and of the optimizer's moments.
        compute: of activations.
        matmul: how exactly an accelerator multiplies float32, in JAX's words: by default it
            would round the operands to fewer bits.
    """

    params: DTypeLike = jnp.float32
    compute: DTypeLike = jnp.float32
    matmul: str = "highest"

    def products(self) -> contextlib.AbstractContextManager[None]:
        """Around what is traced: its products are as exact as `matmul` says."""
        return jax.default_matmul_precision(self.matmul)


FLOAT32 = Precision()
"""As Piper computes on a CPU."""
