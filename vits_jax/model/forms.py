"""The same computation is written in the form that a platform runs best.

What "best" rests on: docs/performance.md. The forms differ by rounding at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace

import jax


@dataclass(frozen=True)
class Forms:
    """How what can be written in several ways is written.

    Attributes:
        windows: grouped convolutions as windows side by side and one matmul for each group,
            not as the operation itself.
        dense: grouped strided convolutions over up to so many channels as plain ones over blocks
            of ``stride`` samples, with zeros between the groups: cuDNN takes fewer channels than
            its matrix units are wide, and some engines of it the groups one by one.
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
        alignment_kernel: monotonic alignment is one kernel, not a loop over the frames, of which
            each turn is launches of its own.
    """

    windows: bool = False
    dense: int = 0
    phases: bool = False
    few_sums: bool = False
    matrix_fft: bool = False
    lanes: int = 0
    stacked: int = 0
    alignment_kernel: bool = False


FORMS = {
    "cpu": Forms(windows=True),
    "gpu": Forms(dense=256, phases=True, few_sums=True, stacked=1 << 19, alignment_kernel=True),
    "tpu": Forms(matrix_fft=True, lanes=128, stacked=1 << 19, alignment_kernel=True),
}
_forms: ContextVar[Forms] = ContextVar("forms", default=FORMS["cpu"])


@contextlib.contextmanager
def forms_for(target: str | jax.Device) -> Iterator[None]:
    """Around what is traced for ``"cpu"``, ``"gpu"`` or ``"tpu"``, or for a device."""
    before = _forms.set(FORMS[target] if isinstance(target, str) else _of_device(target))
    try:
        yield
    finally:
        _forms.reset(before)


def _of_device(device: jax.Device) -> Forms:
    found = FORMS[device.platform]
    # XLA compiles Triton's kernels for compute capability 8.0 (Ampere) and up; of AMD's GPUs, whose
    # names are no numbers, this one was never compiled.
    capability = str(getattr(device, "compute_capability", ""))
    older = not capability.replace(".", "", 1).isdecimal() or float(capability) < 8
    return replace(found, alignment_kernel=False) if device.platform == "gpu" and older else found


def forms() -> Forms:
    """Those of the platform that is being traced for."""
    return _forms.get()
