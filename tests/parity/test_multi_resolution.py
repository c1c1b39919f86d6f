"""The discriminators of spectra (`--use-mrd`) against Piper's, with the same weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tests.parity import oracle
from tests.parity.cases import compiled, smallest, to_jax
from tests.parity.comparing import assert_all_close, assert_close
from tests.runs import COARSE, coarse_spectra
from vits_jax.config import MRD_RESOLUTIONS
from vits_jax.model import discriminator
from vits_jax.model.forms import FORMS, forms_for
from vits_jax.model.layers import WeightNorm
from vits_jax.model.multi_resolution import AllDiscriminators, magnitudes
from vits_jax.model.networks import (
    MULTI_RESOLUTION,
    apart,
    judges_of,
    multi_resolution_shapes,
    parameter_shapes,
)
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.weight_norm import fold
from vits_jax.training.adversarial import Adversarial, halves
from vits_jax.training.losses import Rows

ROWS, SAMPLES = 2, 2048
CONFIG = smallest().replaced({"use_mrd": True, "segment_size": SAMPLES})


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """At random weights, of such a gain that signals do not die out on the way."""
    return oracle.randomize(oracle.multi_resolution(), 3, gain=2.0)


def waveforms() -> torch.nn.Module:
    """Of the other discriminators the first; another copy of a layer shows nothing more."""
    network = oracle.discriminator(CONFIG.model.discriminator_width)
    del network.discriminators[1:]
    return oracle.randomize(network, 2, gain=3.0)


@pytest.fixture(scope="module")
def network() -> Any:
    """The same, as shapes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(discriminator, "PERIODS", ())
        yield nnx.eval_shape(lambda: AllDiscriminators(CONFIG.model, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def coarse(network: AllDiscriminators) -> Any:
    """The same at other resolutions."""
    with coarse_spectra(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(discriminator, "PERIODS", ())
        yield nnx.eval_shape(lambda: AllDiscriminators(CONFIG.model, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def judges(theirs: torch.nn.Module) -> Parameters:
    """All discriminators' parameters."""
    networks = {"model_d": waveforms(), MULTI_RESOLUTION: theirs}
    return judges_of({name: to_jax(oracle.flat(network)) for name, network in networks.items()})


def sounds() -> tuple[np.ndarray, np.ndarray]:
    """Recorded and generated audio ``[B, T]``: in this one row is silent from early on."""
    real, generated = 0.3 * np.random.default_rng(0).normal(size=(2, ROWS, SAMPLES))
    generated[1, 40:] = 0
    return real.astype(np.float32), generated.astype(np.float32)


def ours(x: torch.Tensor) -> np.ndarray:
    """``[B, C, F, T]`` to ``[B, F, T, C]``."""
    return x.detach().permute(0, 2, 3, 1).numpy()


def test_names_shapes_and_order_are_pipers(theirs: torch.nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in theirs.named_parameters()}
    assert list(multi_resolution_shapes().items()) == list(expected.items())
    shapes = parameter_shapes(CONFIG)
    assert list(shapes) == ["model_g", "model_d", "model_mrd"]
    assert list(shapes[MULTI_RESOLUTION].items()) == list(expected.items())
    assert apart(judges_of(shapes)) == {n: dict(shapes[n]) for n in ("model_d", "model_mrd")}
    assert MULTI_RESOLUTION not in parameter_shapes(smallest())


def test_feature_maps_and_decisions(
    theirs: torch.nn.Module, network: AllDiscriminators, judges: Parameters
) -> None:
    real, generated = sounds()
    bound = bind(network, judges)
    got = compiled(lambda network, x: network(x), bound, generated)[-len(MRD_RESOLUTIONS) :]
    decisions, _, maps, _ = theirs(*(torch.tensor(x)[:, None] for x in (generated, real)))
    for number, (own, expected) in enumerate(zip(got, maps, strict=True)):
        for layer, (a, b) in enumerate(zip(own, expected, strict=True)):
            assert_close(a, ours(b), 1e-5, f"{number}, layer {layer}")
        decided = decisions[number].detach().numpy()
        assert_close(own[-1][..., 0].reshape(ROWS, -1), decided, 1e-5, "decision")


def test_losses_and_gradients(
    theirs: torch.nn.Module,
    coarse: AllDiscriminators,
    judges: Parameters,
    x64: None,
) -> None:
    """Of the parameters, and of the generated audio, as a step takes them in one pass.

    In float64: a feature that float32 has on the other side of zero has another slope.
    """
    rows = Rows(jnp.ones(ROWS), jnp.float64(ROWS), jnp.float64(1), jnp.float64(1))
    adversarial = Adversarial(CONFIG.optimizer, len(coarse.discriminators))

    def gradients(parameters: Parameters, real: jax.Array, generated: jax.Array) -> Any:
        def loss(parameters: Parameters) -> tuple[jax.Array, Any]:
            features, saved = bind(coarse, parameters).forward(real, generated)
            a, b = halves(features)
            disc, terms = adversarial.of_discriminators(a, b, rows)
            return disc, (a, b, saved, terms)

        grads, (a, b, saved, disc) = jax.grad(loss, has_aux=True)(parameters)
        to_features, terms = jax.grad(adversarial.of_generator, has_aux=True)(b, a, rows)
        to_audio = bind(coarse, parameters).pull_back(saved, b, to_features, generated)
        return apart(grads), to_audio, disc | terms

    real, generated = (x[:, :128].astype(np.float64) for x in sounds())
    exact = {name: jnp.asarray(x, np.float64) for name, x in judges.items()}
    grads, to_audio, terms = compiled(gradients, exact, real, generated)

    y, y_hat = (torch.tensor(x)[:, None] for x in (real, generated))
    y_hat.requires_grad_()
    of_generator = torch.zeros(())
    at_coarse = oracle.load(oracle.multi_resolution(COARSE), oracle.flat(theirs))
    networks = {"model_d": waveforms(), MULTI_RESOLUTION: at_coarse}
    for (name, module), prefix in zip(networks.items(), ("", "mrd_"), strict=True):
        their_network = module.double()
        disc, gen, fm = oracle.adversarial_losses(their_network, y, y_hat)
        for term, expected in (("disc", disc), ("gen", gen), ("fm", fm)):
            assert_close(terms[f"{prefix}{term}"], expected.item(), 1e-9, f"{prefix}{term}")
        disc.backward()
        assert_all_close(grads[name], oracle.gradients(their_network), 1e-9)
        of_generator = of_generator + gen + fm
    (to_theirs,) = torch.autograd.grad(of_generator, y_hat)
    assert_close(to_audio, to_theirs[:, 0].numpy(), 1e-9, "to the generated audio")


def test_in_bfloat16_the_spectra_are_of_the_audio_as_it_is(
    coarse: AllDiscriminators, judges: Parameters
) -> None:
    """Rounded to bfloat16, audio has a noise that hides what is quiet."""
    folded = nnx.clone(coarse)
    for _, module in nnx.iter_graph(folded):
        if isinstance(module, WeightNorm):
            module.fold()
    real, generated = (jnp.asarray(x[:, :128]) for x in sounds())
    near, exact = (bind(folded, fold(judges, dtype)) for dtype in (jnp.bfloat16, jnp.float32))

    def to_audio(network: AllDiscriminators) -> tuple[list[Any], jax.Array]:
        dtype = network.discriminators[0].conv_post.effective().dtype
        features, saved = network.forward(real, generated, dtype)
        _, own = halves(features)
        return features, network.pull_back(saved, own, own, generated, dtype)

    (features, gradient), (_, expected) = (compiled(to_audio, one) for one in (near, exact))
    assert {maps.dtype for some in features for maps in some} == {jnp.dtype(jnp.bfloat16)}
    judge = near.model_mrd.discriminators[0]
    heard = features[-len(MRD_RESOLUTIONS)][0][ROWS:].astype(np.float32)
    rounded = generated.astype(jnp.bfloat16).astype(np.float32)
    as_it_is, as_rounded = (judge(x)[0].astype(np.float32) for x in (generated, rounded))
    assert np.abs(heard - as_it_is).max() < np.abs(heard - as_rounded).max() / 4
    assert gradient.dtype == np.float32
    a, b = (np.ravel(x).astype(np.float64) for x in (gradient, expected))
    assert a @ b > 0.98 * np.linalg.norm(a) * np.linalg.norm(b)


@pytest.mark.parametrize("resolution", MRD_RESOLUTIONS)
def test_silence_has_a_finite_gradient(resolution: tuple[int, int, int]) -> None:
    """Zero, as PyTorch's magnitude has it; the root's own slope would be infinite."""

    def loudness(audio: jax.Array) -> jax.Array:
        return jnp.sum(magnitudes(audio, *resolution))

    silent = np.zeros((1, SAMPLES), np.float32)
    assert not np.any(jax.grad(loudness)(silent))
    half = np.where(np.arange(SAMPLES) < 300, 0.1, 0).astype(np.float32)[None]
    to_audio = np.asarray(jax.grad(loudness)(half))
    assert np.isfinite(to_audio).all()
    assert np.any(to_audio)


@pytest.mark.parametrize("platform", sorted(FORMS))
def test_a_platforms_forms_are_pytorchs(platform: str, x64: None) -> None:
    audio = sounds()[0].astype(np.float64)
    for n_fft, hop, window in MRD_RESOLUTIONS:

        def spectrum(x: jax.Array, n_fft: int = n_fft, hop: int = hop, window: int = window):
            with forms_for(platform):
                return magnitudes(x, n_fft, hop, window)

        pad = (n_fft - hop) // 2
        padded = torch.nn.functional.pad(torch.tensor(audio)[:, None], (pad, pad), "reflect")[:, 0]
        expected = torch.stft(
            padded, n_fft, hop, window, torch.hann_window(window), center=False, return_complex=True
        )
        assert_close(compiled(spectrum, audio), expected.abs().numpy(), 1e-12)
