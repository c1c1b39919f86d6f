"""Between Piper's presets: every tensor is accounted for, and what sounds at another rate."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import soxr

from tests.checkpoints.test_growing import Stored, Told, grown
from tests.parity.cases import compiled, tiny
from vits_jax.checkpoints.growing import NO_RULE, Growth, resampling
from vits_jax.checkpoints.warm_start import Transfer, warm_start
from vits_jax.config import AudioConfig, Config
from vits_jax.model.audio import spectrogram
from vits_jax.model.networks import GENERATOR, abstract_networks, parameter_shapes
from vits_jax.model.parameters import bind
from vits_jax.presets import preset

RATES = {"x-low": 16000, "low": 16000, "medium": 22050, "high": 22050, "high-44k": 44100}


def of_preset(name: str, **more: Any) -> Config:
    return preset(name).replaced({"sample_rate": RATES[name], **more})


def accounted(old: Config, new: Config) -> Transfer:
    """What is said of every tensor of both sides, once."""
    shapes = parameter_shapes(old)
    source: Any = Stored(old, {})
    source.shapes = {network: dict(own) for network, own in shapes.items()}
    transfer = warm_start(source, new, {})
    here, there = (
        {f"{network}.{n}" for network, some in s.items() for n in some}
        for s in (parameter_shapes(new), shapes)
    )
    assert {*transfer.taken, *transfer.fresh} == here
    assert transfer.taken.keys().isdisjoint(transfer.fresh)
    assert {*transfer.taken, *transfer.left} == here & there | there
    assert transfer.taken.keys().isdisjoint(transfer.left)
    assert transfer.grown <= transfer.taken.keys() <= there
    return transfer


@pytest.mark.parametrize("speakers", [1, 4])
def test_x_low_to_medium(speakers: int) -> None:
    """All of it grows: both encoders, the flow, durations, the decoder's first layer."""
    more = {"num_speakers": speakers, "gin_channels": 512 if speakers > 1 else 0}
    old, new = (of_preset(name, **more) for name in ("x-low", "medium"))
    found = accounted(old, new)
    assert not found.fresh and not found.left
    there, here = (parameter_shapes(c)[GENERATOR] for c in (old, new))
    differ = {f"{GENERATOR}.{n}" for n in there if there[n] != here[n]}
    assert len(differ) == (613 if speakers > 1 else 596)
    assert differ < found.grown
    rest = {name for name in found.grown - differ if not name.endswith(".proj.bias")}
    assert rest == {"model_g.dp.flows.0.m"}  # frames last differently


def test_low_to_medium() -> None:
    """One network at another rate."""
    found = accounted(of_preset("low"), of_preset("medium"))
    assert not found.fresh and not found.left
    assert found.grown == {
        *("model_g.enc_q.pre.weight", "model_g.dp.flows.0.m", "model_g.dp.post_pre.weight")
    }
    again = accounted(of_preset("low"), of_preset("low"))
    assert not again.grown


def test_medium_to_high() -> None:
    """Another decoder: its first layers grow, as far as both have the same strides."""
    found = accounted(of_preset("medium"), of_preset("high"))
    assert found.grown == {
        *("model_g.dec.conv_pre.weight", "model_g.dec.conv_pre.bias"),
        *(f"model_g.dec.ups.{i}.{x}" for i in (0, 1) for x in ("bias", "weight_g", "weight_v")),
    }
    assert all(n.startswith(("model_g.dec.ups.", "model_g.dec.resblocks.")) for n in found.fresh)
    reasons = Counter(reason.partition(":")[0] for reason in found.fresh.values())
    assert reasons == {"the checkpoint has none": 4 * 3 * 6 * 3 + 3, NO_RULE: 3}
    assert len(found.left) == 3 * 3 * 2 * 3 + 3
    assert found.taken["model_g.dec.conv_post.weight"] == "the same in both"


def test_high_to_44k() -> None:
    """Frames last as long, bins are as wide: twice as many, of half the height."""
    found = accounted(of_preset("high"), of_preset("high-44k"))
    assert found.grown == {"model_g.enc_q.pre.weight"}
    stage = tuple(f"model_g.dec.{x}" for x in ("ups.4.", "conv_post.", "resblocks.1"))
    assert all(name.startswith(stage) for name in found.fresh)
    audio = [of_preset(name).audio for name in ("high", "high-44k")]
    np.testing.assert_array_equal(resampling(*audio), np.eye(513, 1025) / 2)


# Another rate


def noises(rate: int) -> np.ndarray:
    """Four seconds of shaped noise, up to 7,000 Hz."""
    white = np.random.default_rng(3).standard_normal(4 * 44100)
    spectrum = np.fft.rfft(white)
    hertz = np.fft.rfftfreq(len(white), 1 / 44100)
    spectrum *= np.where(hertz < 7000, 1 / (1 + (hertz / 1500) ** 2), 0)
    return soxr.resample(0.05 * np.fft.irfft(spectrum), 44100, rate, quality="VHQ")


def heard(kernels: np.ndarray, signal: np.ndarray, audio: AudioConfig) -> np.ndarray:
    """What the posterior encoder's first layer makes of a signal, on average over time."""
    lengths = jnp.asarray([len(signal)])
    spec = spectrogram(jnp.asarray(signal[None], jnp.float32), lengths, audio)
    return kernels @ np.asarray(spec)[0].mean(axis=0)


@pytest.mark.parametrize("names", [("low", "medium"), ("medium", "low"), ("high", "high-44k")])
def test_the_posterior_encoder_hears_the_same_sound(names: tuple[str, str]) -> None:
    old, new = (of_preset(name) for name in names)
    growth = growth_of(old, new)
    hertz = np.arange(513) * old.audio.sample_rate / 1024
    centres = np.arange(500, 7000, 500)
    kernels = np.exp(-0.5 * ((hertz - centres[:, None]) / 200) ** 2)
    rest = np.zeros((old.model.hidden_channels - len(kernels), 513))
    weight = np.concatenate([kernels, rest])[:, :, None].astype(np.float32)
    grown = growth.tensor("enc_q.pre.weight", {"enc_q.pre.weight": weight})
    signals = [noises(c.audio.sample_rate) for c in (old, new)]
    before = heard(kernels, signals[0], old.audio)
    after = heard(grown[: len(kernels), :, 0], signals[1], new.audio)
    np.testing.assert_allclose(after, before, rtol=0.04)


def growth_of(old: Config, new: Config) -> Growth:
    there, here = (parameter_shapes(c)[GENERATOR] for c in (old, new))
    return Growth(old, new, there, here)


@pytest.mark.parametrize("sdp", [True, False])
def test_durations_stay_in_seconds(sdp: bool) -> None:
    old = tiny(use_sdp=sdp).replaced({"sample_rate": 16000})
    new = old.replaced({"sample_rate": 22050})
    narrow, wide, _ = grown(old, new)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 7, 16)), jnp.float32)
    told, mask = Told(dp=rng.standard_normal((2, 7, 2))), jnp.ones((2, 7, 1), jnp.float32)
    before, after = (
        compiled(
            lambda p, x: bind(abstract_networks(old).generator, p).dp.log_durations(
                x, mask, None, told, 0.8
            ),
            {name: jnp.asarray(array) for name, array in params.items()},
            x,
        )
        for params in (narrow, wide)
    )
    seconds = [np.exp(np.asarray(y)) * 256 / rate for y, rate in ((before, 16e3), (after, 22050))]
    np.testing.assert_allclose(seconds[1], seconds[0], rtol=1e-5)
    if sdp:  # the posterior of durations hears them as it did
        name = "dp.post_pre.weight"
        np.testing.assert_allclose(wide[name] * 22050 / 16000, narrow[name], rtol=1e-6)
