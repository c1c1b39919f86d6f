"""The same computation is written in the form that a platform runs best.

What "best" rests on: docs/performance.md. The forms differ by rounding at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Forms:
    """How what can be written in several ways is written.

    Attributes:
        windows: grouped convolutions as windows side by side and one matmul for each group,
            not as the operation itself.
        phases: dilated convolutions over a signal whose every ``dilation``-th sample is a row
            of its own. The operation itself has, for the gradient to its weight, a convolution
            whose window is as long as the signal.
        few_sums: each row of a batch has its own copy of biases and scales, biases are added in
            their own precision, depthwise taps are one sum. On a GPU the gradient of a vector,
            a sum over rows and samples, is two kernels, and a third for another type; so the
            second is for all vectors at once.
        matrix_fft: Fourier transforms as products with a matrix: XLA's own on a TPU goes over
            its signal some forty times.
        lanes: signals of fewer channels are packed up to so many (`packed`); 0: none are.
        stacked: weights of up to so many numbers are normalised together with all of their
            shape (`weight_norm.fold`).
    """

    windows: bool = False
    phases: bool = False
    few_sums: bool = False
    matrix_fft: bool = False
    lanes: int = 0
    stacked: int = 0


FORMS = {
    "cpu": Forms(windows=True),
    "gpu": Forms(phases=True, few_sums=True, stacked=1 << 19),
    "tpu": Forms(matrix_fft=True, lanes=128, stacked=1 << 19),
}
_forms: ContextVar[Forms] = ContextVar("forms", default=FORMS["cpu"])


@contextlib.contextmanager
def forms_for(platform: str) -> Iterator[None]:
    """Around what is traced for ``"cpu"``, ``"gpu"`` or ``"tpu"``."""
    before = _forms.set(FORMS[platform])
    try:
        yield
    finally:
        _forms.reset(before)


def forms() -> Forms:
    """Those of the platform that is being traced for."""
    return _forms.get()
