"""Which numbers a program computes with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vits_jax.config import PRECISIONS


@dataclass(frozen=True)
class Precision:
    """Types of numbers, of training or of speaking.

    Attributes:
        params: of parameters and the optimizer's moments; of signals, spectra, statistics and
            losses too.
        compute: of the networks' activations.
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

POLICIES = {
    "32": FLOAT32,
    # An accelerator's own way with float32: TF32 on a GPU, passes of bfloat16 on a TPU.
    "tf32": Precision(matmul="default"),
    "bf16-mixed": Precision(compute=jnp.bfloat16, matmul="default"),
}


def chosen(asked: str, platform: str) -> str:
    """The key of `POLICIES` that a `--precision` means on ``"cpu"``, ``"gpu"`` or ``"tpu"``."""
    name = PRECISIONS[asked]
    automatic = "32" if platform == "cpu" else "bf16-mixed"
    return automatic if name == "auto" else name
