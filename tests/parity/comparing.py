"""How far two arrays, or two flat dicts of arrays, are apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def relative(ours: Any, theirs: Any) -> float:
    """``‖ours - theirs‖ / ‖theirs‖`` in float64; arrays of another shape are an error."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    assert np.isfinite(a).all() and np.isfinite(b).all()
    assert np.linalg.norm(b) > 0, "nothing to compare with: zero"
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def assert_close(ours: Any, theirs: Any, bound: float, what: str = "") -> None:
    """Fail unless `relative` is at most ``bound``."""
    distance = relative(ours, theirs)
    assert distance <= bound, f"{what}: {distance:.2e} apart, allowed {bound:.0e}"


def assert_all_close(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    bound: float,
    zero: Mapping[str, float] | None = None,
) -> None:
    """Compare name by name.

    Args:
        ours, theirs: the same names.
        bound: largest relative distance.
        zero: name endings of tensors that are zero but for rounding, with the largest
            absolute value allowed on either side.
    """
    assert sorted(ours) == sorted(theirs)
    failures = []
    for name in ours:
        absolute = [limit for ending, limit in (zero or {}).items() if name.endswith(ending)]
        if absolute:
            largest = max(float(np.abs(np.asarray(side[name])).max()) for side in (ours, theirs))
            if not largest <= absolute[0]:
                failures.append(f"{name}: {largest:.2e}, should be zero")
        else:
            distance = relative(ours[name], theirs[name])
            if not distance <= bound:
                failures.append(f"{name}: {distance:.2e}")
    assert not failures, f"{len(failures)} beyond {bound:.0e}: " + "; ".join(failures[:20])
