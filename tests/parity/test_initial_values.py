"""Fresh weights against Piper's, by distribution: no two tensors share their numbers."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from tests.parity import oracle
from tests.parity.cases import QUICK_COMPILATION, tiny
from vits_jax.config import Config
from vits_jax.model.networks import initial_parameters, judges_of

SAMPLES = 6  # networks, for enough numbers of the small tensors
SPECTRAL = {"use_mrd": True, "segment_size": 1024}
CONFIGS = {
    "sdp-resblock2-mrd": tiny(speakers=3).replaced(SPECTRAL),
    "plain-resblock1": tiny(resblock="1", use_sdp=False),
}


def flat_values(config: Config) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Tensors of several fresh networks, stacked: ours, the oracle's."""
    initial = jax.jit(functools.partial(initial_parameters, config))
    initial = initial.lower(jax.random.key(0)).compile(QUICK_COMPILATION)
    ours, theirs = [], []
    for seed in range(SAMPLES):
        values = initial(jax.random.key(seed))
        ours.append({**values["model_g"], **_prefixed(judges_of(values))})
        their_g = oracle.flat(oracle.generator(config.model, config.audio, seed=seed))
        width = config.model.discriminator_width
        theirs_d = {"model_d": oracle.flat(oracle.discriminator(width, seed=seed))}
        if config.model.use_mrd:
            theirs_d["model_mrd"] = oracle.flat(oracle.multi_resolution(seed=seed))
        theirs.append({**their_g, **_prefixed(judges_of(theirs_d))})
    return tuple(
        {name: np.stack([np.asarray(values[name]) for values in side]) for name in side[0]}
        for side in (ours, theirs)
    )


def _prefixed(values: dict[str, object]) -> dict[str, object]:
    return {f"model_d.{name}": value for name, value in values.items()}


@pytest.fixture(scope="module", params=CONFIGS)
def values(request: pytest.FixtureRequest) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return flat_values(CONFIGS[request.param])


def test_spread_of_every_tensor(values: tuple[dict[str, np.ndarray], ...]) -> None:
    """Standard deviation, and the bound of what is uniform, as far as so many numbers tell."""
    failures = []
    for name, theirs in values[1].items():
        ours = values[0][name]
        if np.ptp(theirs) == 0:  # zeros and ones
            if not np.array_equal(ours, theirs):
                failures.append(f"{name}: not {theirs.flat[0]}")
            continue
        if name.endswith("weight_g"):
            continue  # follows from weight_v, see below
        allowed = 1 + 6 / np.sqrt(ours.size)  # six standard errors
        ratio = ours.std() / theirs.std()
        if not 1 / allowed < ratio < allowed:
            failures.append(f"{name}: spread {ratio:.3f} of Piper's, {ours.size} numbers")
        # Uniform numbers end at sqrt(3) times their deviation, Gaussian ones go on.
        shape_ours, shape_theirs = (np.abs(side).max() / side.std() for side in (ours, theirs))
        if ours.size >= 500 and not 0.75 < shape_ours / shape_theirs < 1.33:
            failures.append(f"{name}: largest {shape_ours:.2f} deviations, {shape_theirs:.2f}")
        if abs(ours.mean()) > 6 * theirs.std() / np.sqrt(ours.size):
            failures.append(f"{name}: mean {ours.mean():.2e}")
    assert not failures, "\n".join(failures)


def test_zero_where_piper_is_zero(values: tuple[dict[str, np.ndarray], ...]) -> None:
    zero = {name for name, theirs in values[1].items() if not theirs.any()}
    assert zero == {name for name, ours in values[0].items() if not ours.any()}
    assert any("flow.flows.0.post.weight" in name for name in zero)


def test_weight_norm_starts_at_the_norm(values: tuple[dict[str, np.ndarray], ...]) -> None:
    norms = [name for name in values[0] if name.endswith("weight_g")]
    assert norms
    for name in norms:
        g, v = values[0][name], values[0][name.replace("weight_g", "weight_v")]
        norm = np.sqrt((v**2).sum(tuple(range(2, v.ndim)), keepdims=True))
        np.testing.assert_allclose(g, norm, rtol=1e-6)


def test_tensors_do_not_repeat_each_other(values: tuple[dict[str, np.ndarray], ...]) -> None:
    """Every tensor has its own random numbers, and every key gives others."""
    seen: dict[bytes, str] = {}
    for name, ours in values[0].items():
        if np.ptp(ours) == 0 or ours[0].size < 4 or name.endswith("weight_g"):
            continue
        # Scale away the bound: the same draw under another bound would be a repetition too.
        for sample, array in enumerate(ours):
            head = np.round(array.ravel()[:4] / np.abs(array.ravel()[:4]).max(), 4)
            other = seen.setdefault(head.tobytes(), f"{name} of key {sample}")
            assert other == f"{name} of key {sample}", f"{name} repeats {other}"
