"""A training step against Piper's: losses, gradients of every tensor, parameters after AdamW.

Both sides get the same weights, noise, segment and dropout masks, so this also shows that
dropout happens in Piper's places.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P

from tests.parity import oracle
from tests.parity.cases import (
    CASES,
    ONE_DEVICE,
    QUICK_COMPILATION,
    Programs,
    batch,
    quickly,
    smallest,
    to_jax,
)
from tests.parity.comparing import assert_all_close, assert_close, relative
from tests.parity.conftest import fresh_oracle
from tests.parity.injected import Injected, inject_dropout, injected_into_oracle
from tests.runs import COARSE, coarse_spectra
from vits_jax.config import Config
from vits_jax.model.networks import NETWORKS, folded_networks
from vits_jax.model.precision import FLOAT32, POLICIES, Precision
from vits_jax.state import fresh_state
from vits_jax.training import step
from vits_jax.training.losses import count_rows
from vits_jax.training.objective import Objective

pytestmark = pytest.mark.slow

# A key's bias adds the same to all scores of a query, and softmax does not see that.
ZERO = {"conv_k.bias": 1e-5}


# The other two would compile for a minute and show nothing new: the float64 test has the third.
cases = pytest.mark.parametrize("name", ["single-resblock2-sdp", "multi-resblock1-plain"])


def parameters(network_g: Any, network_d: Any) -> dict[str, dict[str, jax.Array]]:
    return dict(zip(NETWORKS, map(to_jax, map(oracle.flat, (network_g, network_d)))))


@functools.cache
def compiled_gradients(
    name: str, precision: Precision = FLOAT32
) -> tuple[Callable[..., Any], list[str]]:
    """``(params, batch) -> gradients, metrics`` with dropout, and where that was."""
    config, rows = CASES[name], batch(CASES[name])
    random = Injected(len(rows["weight"]), dropout=True)
    networks = folded_networks(config)

    objective = Objective(config, networks, precision)

    def function(params: Any, batch: Any) -> Any:
        counted = count_rows(batch, config.audio.hop_length, np.float32, "data")
        return objective.gradients(params, batch, counted, random)

    sharded = jax.shard_map(
        function, mesh=ONE_DEVICE, in_specs=(P(), P()), out_specs=P(), check_vma=False
    )
    params = parameters(*fresh_oracle(config))
    return jax.jit(sharded).lower(params, rows).compile(QUICK_COMPILATION), random.dropped


class Theirs(NamedTuple):
    """What the oracle says of a batch."""

    losses: dict[str, float]
    grads_g: oracle.Flat
    grads_d: oracle.Flat
    dropped: list[str]


def their_gradients(config: Config, rows: dict[str, np.ndarray]) -> Theirs:
    """In the default dtype: float64 inside ``oracle.float64()``."""
    network_g, network_d = fresh_oracle(config)
    dropped = inject_dropout(network_g)
    network_g.to(torch.get_default_dtype())
    network_d.to(torch.get_default_dtype())
    with injected_into_oracle():
        loss_g, loss_d, terms = oracle.losses(config, network_g, network_d, rows)
    loss_g.backward()
    network_d.zero_grad()  # of what the generator's loss left there
    loss_d.backward()
    losses = {"loss_g": loss_g.item(), "loss_d": loss_d.item()}
    losses |= {name: term.item() for name, term in terms.items()}
    return Theirs(losses, oracle.gradients(network_g), oracle.gradients(network_d), dropped)


def compare_gradients(name: str, rows: dict[str, np.ndarray]) -> None:
    config = CASES[name]
    gradients, our_drops = compiled_gradients(name)
    grads, metrics = gradients(parameters(*fresh_oracle(config)), rows)
    theirs = their_gradients(config, rows)
    for term, expected in theirs.losses.items():
        assert_close(metrics[term], expected, 1e-5, term)
    assert sorted(our_drops) == sorted(theirs.dropped)
    assert our_drops, "no dropout"

    assert_all_close(grads["model_d"], theirs.grads_d, 2e-5)
    if not config.model.use_sdp:
        assert_all_close(grads["model_g"], theirs.grads_g, 2e-5, ZERO)
        return
    (ours_dp, ours_rest), (theirs_dp, theirs_rest) = map(split, (grads["model_g"], theirs.grads_g))
    assert_all_close(ours_rest, theirs_rest, 2e-5, ZERO)
    # log(w - u) of one-frame phonemes cancels: float32 rounds the stochastic predictor's
    # gradients by more than the bound at any weights. By how much is measured on the oracle
    # itself; that they are the right ones, the float64 test shows.
    with oracle.float64():
        exact, _ = split(their_gradients(config, rows).grads_g)
    rounding = max(relative(theirs_dp[name], exact[name]) for name in exact)
    assert rounding < 1e-3
    assert_all_close(ours_dp, exact, max(2e-5, 4 * rounding))


def split(grads: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The duration predictor's, and the others."""
    own = {name: grad for name, grad in grads.items() if name.startswith("dp.")}
    return own, {name: grad for name, grad in grads.items() if name not in own}


@cases
def test_losses_and_gradients(name: str) -> None:
    compare_gradients(name, batch(CASES[name]))


@cases
def test_utterances_shorter_than_a_segment(name: str) -> None:
    short = batch(CASES[name], frames=(5, 20, 8), phonemes=(5, 7, 1), seed=1)
    compare_gradients(name, short)


def test_bfloat16_is_near() -> None:
    """Losses to 1 %, and gradients of every part in nearly the same direction, in float32."""
    name = "multi-resblock1-plain"
    params = parameters(*fresh_oracle(CASES[name]))
    (exact, losses), (near, near_losses) = (
        compiled_gradients(name, POLICIES[precision])[0](params, batch(CASES[name]))
        for precision in ("32", "bf16-mixed")
    )
    for term, expected in losses.items():
        np.testing.assert_allclose(near_losses[term], expected, rtol=0.01, err_msg=term)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for network, some in exact.items():
        for tensor, gradient in some.items():
            assert near[network][tensor].dtype == np.float32
            part = ".".join(tensor.split(".")[: 1 + (network == "model_d")])
            pair = (np.ravel(gradient), np.ravel(near[network][tensor]))
            parts.setdefault(part, []).append(pair)
    for part, pairs in parts.items():
        a, b = (np.concatenate(side).astype(np.float64) for side in zip(*pairs))
        assert a @ b > 0.98 * np.linalg.norm(a) * np.linalg.norm(b), part


OF_BOTH: Programs = {}  # what of a step no discriminator is in


@pytest.mark.parametrize("use_mrd", [False, True], ids=["", "discriminators of spectra too"])
def test_three_steps_in_float64(use_mrd: bool, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, parameters and moments; after the first step the moments are the gradients, scaled.

    AdamW's epsilon of 1e-9 makes whole steps of rounding errors: only float64 compares.
    """
    # Other numbers for D than for G, to see that each network gets its own.
    changed = {"learning_rate_d": 1e-4, "betas_d": (0.5, 0.9), "use_mrd": use_mrd}
    config = smallest(resblock="1").replaced(changed)
    network_g, network_d = fresh_oracle(config)
    inject_dropout(network_g)
    theirs = {"model_g": network_g, "model_d": network_d}
    if use_mrd:
        theirs["model_mrd"] = oracle.randomize(oracle.multi_resolution(COARSE), 3, gain=2.0)
    for network in theirs.values():
        network.double()
    optimizers = oracle.optimizers(config, *theirs.values())
    assert optimizers[0].defaults["weight_decay"] == config.optimizer.weight_decay
    state = fresh_state({name: to_jax(oracle.flat(network)) for name, network in theirs.items()})
    rates = {
        "learning_rate": np.float64(config.optimizer.learning_rate),
        "learning_rate_d": np.float64(config.optimizer.learning_rate_d),
    }
    monkeypatch.setattr(
        step, "RowRandomness", lambda keys, dropout: Injected(len(keys), dropout=dropout)
    )
    with coarse_spectra():
        precision, programs = Precision(np.float64, np.float64), dict(OF_BOTH)
        train_step = quickly(step.make_train_step(config, ONE_DEVICE, precision), programs)
        for number, frames in enumerate(((22, 30, 17), (12, 20, 8), (22, 30, 17))):
            rows = batch(config, frames=frames, seed=number)
            state, metrics = train_step(state, rows, rates)
            for term, expected in _their_step(config, theirs, optimizers, rows).items():
                assert_close(metrics[term], expected, 1e-8, term)
    OF_BOTH.update({name: programs[name] for name in ("rows", "encode", "predict", "finish")})
    for name, network in theirs.items():
        first, second = oracle.moments(network, optimizers[name != "model_g"])
        moments = state.optimizer[name]
        assert_all_close(state.params[name], oracle.flat(network), 1e-8)
        assert_all_close(moments["mu"], first, 1e-8, {"conv_k.bias": 1e-13})
        assert_all_close(moments["nu"], second, 1e-8, {"conv_k.bias": 1e-26})
        assert moments["count"] == 3
    assert state.step == 3


def _their_step(
    config: Config, networks: dict[str, Any], optimizers: Any, rows: dict[str, np.ndarray]
) -> dict[str, float]:
    """Both losses at the old weights, then both updates, as `VitsModel.training_step` does.

    Returns:
        The losses, all of its terms too.
    """
    for module in networks["model_g"].modules():
        if hasattr(module, "calls"):
            module.calls = 0  # the same masks at every step
    with injected_into_oracle():
        loss_g, loss_d, terms = oracle.losses(
            config,
            networks["model_g"],
            networks["model_d"],
            rows,
            networks.get("model_mrd"),
        )
    losses = {"loss_g": loss_g, "loss_d": loss_d, **terms}
    for loss, adamw in zip((loss_g, loss_d), optimizers, strict=True):
        adamw.zero_grad()
        loss.backward()
        adamw.step()
    return {name: loss.item() for name, loss in losses.items()}
