"""Every module's forward pass against Piper's, with the same weights and noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity import oracle
from tests.parity.cases import CASES, compiled, to_jax
from tests.parity.comparing import assert_close
from tests.parity.conftest import Pair, make_pair
from tests.parity.injected import Injected, injected_into_oracle, noise
from vits_jax.config import Config, ModelConfig
from vits_jax.model.discriminator import MultiPeriodDiscriminator
from vits_jax.model.networks import abstract_networks
from vits_jax.model.parameters import bind

BOUND = 1e-5
ROWS, PHONEMES, FRAMES = 3, 12, 32
PHONEME_LENGTHS, FRAME_LENGTHS = np.array([9, 12, 1]), np.array([32, 20, 5])
single, multi = "single-resblock2-sdp", "multi-resblock1-sdp"
one_and_several_speakers = pytest.mark.parametrize("name", [single, multi])
sdp = pytest.mark.parametrize("name", [name for name in CASES if name.endswith("sdp")])
plain = pytest.mark.parametrize("name", [name for name in CASES if name.endswith("plain")])


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def signal(name: str, length: int, channels: int) -> np.ndarray:
    """[B, T, C], ours."""
    return noise(name, ROWS, (length, channels)).astype(np.float32)


def theirs(x: np.ndarray) -> torch.Tensor:
    """[B, T, C] to [B, C, T]."""
    return torch.tensor(x).transpose(1, 2)


def ours(x: torch.Tensor) -> np.ndarray:
    """[B, C, T] to [B, T, C]."""
    return x.transpose(1, 2).numpy()


def mask(lengths: np.ndarray, size: int) -> np.ndarray:
    """[B, T, 1]."""
    return (np.arange(size) < lengths[:, None])[:, :, None].astype(np.float32)


def speaker(config: ModelConfig) -> tuple[jax.Array | None, torch.Tensor | None]:
    """A speaker's vector for both sides, none for single-speaker models."""
    if not config.gin_channels:
        return None, None
    g = signal("speaker", 1, config.gin_channels)
    return jnp.asarray(g), theirs(g)


def test_text_encoder() -> None:
    pair = make_pair(single)
    ids = pair.batch["phoneme_ids"]
    lengths = pair.batch["phoneme_lengths"]
    got = compiled(lambda enc_p, *a: enc_p(*a, Injected(ROWS)), pair.ours_g.enc_p, ids, lengths)
    expected = pair.theirs_g.enc_p(torch.tensor(ids), torch.tensor(lengths))
    for what, a, b in zip(("hidden", "mean", "log-scale", "mask"), got, expected, strict=True):
        assert_close(a, ours(b), BOUND, what)


def test_text_shorter_than_the_attention_window() -> None:
    pair = make_pair(single)
    ids, lengths = pair.batch["phoneme_ids"][:, :3], np.array([3, 2, 1], np.int32)
    got = compiled(lambda enc_p, *a: enc_p(*a, Injected(ROWS)), pair.ours_g.enc_p, ids, lengths)
    expected = pair.theirs_g.enc_p(torch.tensor(ids), torch.tensor(lengths))
    assert_close(got[0], ours(expected[0]), BOUND)


@one_and_several_speakers
def test_posterior_encoder(name: str) -> None:
    pair = make_pair(name)
    spec = np.abs(signal("spec", FRAMES, pair.config.audio.spec_channels))
    g, g_theirs = speaker(pair.config.model)
    got = compiled(
        lambda enc_q, *a: enc_q(*a, Injected(ROWS)), pair.ours_g.enc_q, spec, FRAME_LENGTHS, g
    )
    with injected_into_oracle():
        expected = pair.theirs_g.enc_q(theirs(spec), torch.tensor(FRAME_LENGTHS), g_theirs)
    for what, a, b in zip(("sample", "mean", "log-scale", "mask"), got, expected, strict=True):
        assert_close(a, ours(b), BOUND, what)


@one_and_several_speakers
@pytest.mark.parametrize("reverse", [False, True])
def test_flow(name: str, reverse: bool) -> None:
    pair = make_pair(name)
    z, y_mask = signal("z", FRAMES, 16), mask(FRAME_LENGTHS, FRAMES)
    g, g_theirs = speaker(pair.config.model)
    got = compiled(lambda flow, *a: flow(*a, reverse=reverse), pair.ours_g.flow, z, y_mask, g)
    expected = pair.theirs_g.flow(theirs(z), theirs(y_mask), g_theirs, reverse=reverse)
    assert_close(got, ours(expected), BOUND)


def durations() -> np.ndarray:
    w = np.random.default_rng(3).integers(1, 9, (ROWS, PHONEMES, 1)).astype(np.float32)
    return w * mask(PHONEME_LENGTHS, PHONEMES)


@sdp
def test_stochastic_durations_likelihood(name: str) -> None:
    pair = make_pair(name)
    x, x_mask, w = signal("x", PHONEMES, 16), mask(PHONEME_LENGTHS, PHONEMES), durations()
    g, g_theirs = speaker(pair.config.model)
    got = compiled(
        lambda dp, *a: dp.negative_log_likelihood(*a, Injected(ROWS)),
        pair.ours_g.dp,
        x,
        x_mask,
        g,
        w,
    )
    with injected_into_oracle():
        expected = pair.theirs_g.dp(theirs(x), theirs(x_mask), theirs(w), g=g_theirs)
    assert_close(got, expected.numpy(), BOUND)


@sdp
def test_stochastic_durations_samples(name: str) -> None:
    pair = make_pair(name)
    x, x_mask = signal("x", PHONEMES, 16), mask(PHONEME_LENGTHS, PHONEMES)
    g, g_theirs = speaker(pair.config.model)
    got = compiled(
        lambda dp, *a: dp.log_durations(*a, Injected(ROWS), 0.8), pair.ours_g.dp, x, x_mask, g
    )
    with injected_into_oracle():
        expected = pair.theirs_g.dp(
            theirs(x), theirs(x_mask), g=g_theirs, reverse=True, noise_scale=0.8
        )
    assert_close(got, ours(expected), BOUND)


@plain
def test_plain_durations(name: str) -> None:
    pair = make_pair(name)
    x, x_mask = signal("x", PHONEMES, 16), mask(PHONEME_LENGTHS, PHONEMES)
    g, g_theirs = speaker(pair.config.model)
    got = compiled(
        lambda dp, *a: dp.log_durations(*a, Injected(ROWS)), pair.ours_g.dp, x, x_mask, g
    )
    assert_close(got, ours(pair.theirs_g.dp(theirs(x), theirs(x_mask), g=g_theirs)), BOUND)


def test_decoder(pair: Pair) -> None:
    z = signal("z", 8, 16)
    g, g_theirs = speaker(pair.config.model)
    got = compiled(lambda dec, *a: dec(*a), pair.ours_g.dec, z, g)
    assert_close(got, pair.theirs_g.dec(theirs(z), g_theirs)[:, 0].numpy(), BOUND)


def compare_discriminators(
    ours_d: MultiPeriodDiscriminator, theirs_d: oracle.models.MultiPeriodDiscriminator, size: int
) -> None:
    audio = 0.3 * noise("audio", 2, (size,)).astype(np.float32)
    # The decisions would do, but a later layer can hide an error of an earlier one.
    got = compiled(lambda network, x: network(x), ours_d, audio)
    _, _, expected, _ = theirs_d(torch.tensor(audio)[:, None], torch.tensor(audio)[:, None])
    assert len(got) == len(expected)
    for number, (maps, their_maps) in enumerate(zip(got, expected)):
        for layer, (a, b) in enumerate(zip(maps, their_maps, strict=True)):
            b = b.reshape(*b.shape[:3], -1)  # [B, C, T, period]
            assert_close(a, b.permute(0, 3, 2, 1).numpy(), BOUND, f"{number}, layer {layer}")


def test_narrow_discriminators() -> None:
    pair = make_pair(single)
    compare_discriminators(pair.ours_d, pair.theirs_d, 128)


def test_full_width_discriminators() -> None:
    theirs_d = oracle.randomize(oracle.discriminator(1024), 2, gain=2.0)
    ours_d = bind(abstract_networks(Config()).discriminator, to_jax(oracle.flat(theirs_d)))
    compare_discriminators(ours_d, theirs_d, 512)
