"""A voice grows: what a wider network, or one of another rate, makes of a narrow one's tensors."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.cases import compiled, tiny
from tests.runs import few_layers
from vits_jax.checkpoints.growing import NO_RULE
from vits_jax.checkpoints.warm_start import Transfer, warm_start
from vits_jax.config import Config
from vits_jax.model.networks import GENERATOR, abstract_networks, parameter_shapes
from vits_jax.model.parameters import bind
from vits_jax.model.synthesizer import EncodedText, Synthesizer

Arrays = dict[str, np.ndarray]
ROWS, PHONEMES, FRAMES = 2, 7, 12
WIDER = {"hidden_channels": 32, "inter_channels": 24, "filter_channels": 64}
WIDER |= {"gin_channels": 24, "upsample_initial_channel": 64}


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with few_layers(2, 2):
        yield


class Told:
    """`vits_jax.model.randomness.Randomness` that draws what it is told; no dropout."""

    def __init__(self, **noise: np.ndarray):
        self.noise = noise

    def normal(self, name: str, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        assert self.noise[name].shape[1:] == shape
        return jnp.asarray(self.noise[name], dtype)

    def uniform(self, name: str, dtype: jnp.dtype) -> jax.Array:
        raise NotImplementedError(name)

    def dropout(self, name: str, x: jax.Array, rate: float) -> jax.Array:
        return x


def random(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


# At larger ones the splines are so steep that they make much of rounding.
GAINS = {"dp.post_pre.weight": 0.05} | {
    f"dp.{flows}.{number}.proj.weight": 0.3
    for flows in ("flows", "post_flows")
    for number in (1, 3)
}


def numbers(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Parameters none of which is zero, at which signals neither die out nor saturate."""
    found = {}
    for name, shape in shapes.items():
        array = random(name).standard_normal(shape)
        kind = name.rpartition(".")[2]
        if kind in ("gamma", "weight_g"):
            array = 1 + 0.3 * array
        elif kind in ("weight", "weight_v") and not name.endswith(("emb.weight", "emb_g.weight")):
            array *= GAINS.get(name, 1.0) * math.prod(shape[1:]) ** -0.5
        elif kind in ("bias", "beta", "m", "logs"):
            array *= 0.3
        found[name] = array.astype(np.float32)
    return found


class Stored:
    """A checkpoint in memory; all there is to `Source` for a warm start."""

    where, unused, averaged = "narrow", (), False

    def __init__(self, config: Config, networks: dict[str, Arrays], dataset: Any = None):
        self.metadata = SimpleNamespace(config=config, dataset=dataset or {})
        self.networks = networks
        self.shapes = {k: {n: a.shape for n, a in some.items()} for k, some in networks.items()}

    def parameters(self, names: Mapping[str, Collection[str]], sharding: Any) -> Any:
        return {k: {n: jnp.asarray(self.networks[k][n]) for n in names[k]} for k in names}


def grown(
    old: Config, new: Config, dataset: Any = None, new_dataset: Any = None, **more: Any
) -> tuple[Arrays, Arrays, Transfer]:
    """Generators: the old one, what becomes of it, and how."""
    params = numbers(parameter_shapes(old)[GENERATOR])
    source: Any = Stored(old, {GENERATOR: params}, dataset)
    fresh = {
        network: {n: np.full(shape, np.nan, np.float32) for n, shape in shapes.items()}
        for network, shapes in parameter_shapes(new).items()
    }
    transfer = warm_start(source, new, new_dataset or {}, **more)
    result = transfer.apply(fresh, source)[GENERATOR]  # type: ignore[arg-type]
    return params, {name: np.asarray(array) for name, array in result.items()}, transfer


class Two:
    """A narrow voice and the wide one that grew of it, on the same input."""

    def __init__(self, old: Config, new: Config):
        self.old, self.new = old, new
        narrow, wide, self.transfer = grown(old, new)
        assert not [name for name, array in wide.items() if np.isnan(array).any()]
        self.generators = [
            bind(abstract_networks(c).generator, {n: jnp.asarray(a) for n, a in p.items()})
            for c, p in ((old, narrow), (new, wide))
        ]
        c, wider = old.model.inter_channels, new.model.inter_channels
        self.kept = np.r_[: c // 2, wider - c // 2 : wider]  # where the old latents are
        rng = random("input")
        self.ids = jnp.asarray(rng.integers(1, 24, (ROWS, PHONEMES)), jnp.int32)
        self.lengths = jnp.asarray([PHONEMES, PHONEMES - 2], jnp.int32)
        self.frames = jnp.asarray([FRAMES, FRAMES - 3], jnp.int32)
        self.speakers = jnp.asarray([2, 1], jnp.int32)

    def latents(self, name: str, length: int) -> list[jax.Array]:
        """Alike in the old channels; the new ones have numbers of their own."""
        wide = random(name).standard_normal((ROWS, length, self.new.model.inter_channels))
        return [jnp.asarray(x, jnp.float32) for x in (wide[:, :, self.kept], wide)]

    def both(self, function: Any, *inputs: Any) -> tuple[Any, Any]:
        """Of both voices; `inputs` are pairs."""
        narrow, wide = (
            jax.device_get(compiled(lambda g, x: function(g, *x), generator, own))
            for generator, own in zip(self.generators, zip(*inputs))
        )
        return narrow, wide

    def mask(self, lengths: jax.Array, size: int) -> jax.Array:
        return (jnp.arange(size)[None] < lengths[:, None])[:, :, None].astype(jnp.float32)


def alike(a: np.ndarray, b: np.ndarray) -> None:
    """The same to the rounding of float32, of signals that are some."""
    scale = np.abs(a).max()
    assert scale > 0.01
    np.testing.assert_allclose(b, a, rtol=0, atol=2e-5 * scale)


@pytest.fixture(scope="module", params=["sdp, resblock 2", "plain, resblock 1"])
def two(request: pytest.FixtureRequest, few: None) -> Two:
    sdp = request.param.startswith("sdp")
    old = tiny(speakers=3, resblock=request.param[-1], use_sdp=sdp)
    return Two(old, old.replaced(WIDER))


def test_all_grows(two: Two) -> None:
    assert not {n: r for n, r in two.transfer.fresh.items() if n.startswith(GENERATOR)}
    assert len(two.transfer.grown) > 100
    assert not two.transfer.left


def test_text_encoder(two: Two) -> None:
    def encode(g: Synthesizer, _: Any) -> Any:
        return g.enc_p(two.ids, two.lengths, Told())

    (x, m, logs, _), (x_wide, m_wide, logs_wide, _) = two.both(encode, (0, 0))
    for copy in (0, 1):
        alike(x, x_wide[:, :, copy::2])
    for narrow, wide in ((m, m_wide), (logs, logs_wide)):
        alike(narrow, wide[:, :, two.kept])
        assert not np.delete(wide, two.kept, axis=2).any()  # N(0, 1)


def test_posterior_encoder(two: Two) -> None:
    spec = random("spectrogram").uniform(size=(ROWS, FRAMES, two.old.audio.spec_channels))
    noise = [{"enc_q": x} for x in two.latents("posterior", FRAMES)]

    def encode(g: Synthesizer, noise: Any) -> Any:
        told = Told(**noise)
        return g.enc_q(jnp.asarray(spec, jnp.float32), two.frames, g.speaker(two.speakers), told)

    (z, m, logs, _), (z_wide, m_wide, logs_wide, _) = two.both(encode, noise)
    for narrow, wide in ((z, z_wide), (m, m_wide), (logs, logs_wide)):
        alike(narrow, wide[:, :, two.kept])
    assert not np.delete(m_wide, two.kept, axis=2).any()
    assert not np.delete(logs_wide, two.kept, axis=2).any()


@pytest.mark.parametrize("reverse", [False, True])
def test_flow(two: Two, reverse: bool) -> None:
    mask = two.mask(two.frames, FRAMES)

    def flow(g: Synthesizer, z: jax.Array) -> Any:
        return g.flow(z * mask, mask, g.speaker(two.speakers), reverse=reverse)

    inputs = two.latents("latents", FRAMES)
    narrow, wide = two.both(flow, inputs)
    alike(narrow, wide[:, :, two.kept])
    assert np.abs(narrow - np.asarray(inputs[0])).max() > 0.1  # it does something
    new = np.delete(np.asarray(inputs[1] * mask), two.kept, axis=2)
    np.testing.assert_array_equal(np.delete(wide, two.kept, axis=2), new)  # flipped twice


def test_durations(two: Two) -> None:
    x = random("text").standard_normal((ROWS, PHONEMES, two.old.model.hidden_channels))
    x = x.astype(np.float32)
    noise = random("durations").standard_normal((ROWS, PHONEMES, 2))
    w = jnp.asarray(random("w").integers(1, 20, (ROWS, PHONEMES, 1)), jnp.float32)
    mask = two.mask(two.lengths, PHONEMES)

    def predict(g: Synthesizer, x: jax.Array) -> Any:
        told, speaker = Told(dp=noise), g.speaker(two.speakers)
        return (
            g.dp.negative_log_likelihood(x, mask, speaker, w, told),
            g.dp.log_durations(x, mask, speaker, told, 0.8),
        )

    narrow, wide = two.both(predict, (jnp.asarray(x), jnp.asarray(np.repeat(x, 2, axis=2))))
    for a, b in zip(narrow, wide):
        alike(a, b)


def test_decoder(two: Two) -> None:
    def decode(g: Synthesizer, z: jax.Array) -> Any:
        return g.dec(z, g.speaker(two.speakers))

    alike(*two.both(decode, two.latents("latents", FRAMES)))


def test_it_says_the_same(two: Two) -> None:
    """From ids to samples, whatever noise the new latents have."""
    durations = jnp.asarray(random("spoken").integers(1, 3, (ROWS, PHONEMES)), jnp.int32)

    def speak(g: Synthesizer, noise: jax.Array) -> Any:
        _, m, logs, _ = g.enc_p(two.ids, two.lengths, Told())
        told = Told(prior=noise)  # type: ignore[arg-type]
        text = EncodedText(m, logs, durations)
        return g.decode(text, two.speakers, told, n_frames=FRAMES)[0]

    alike(*two.both(speak, two.latents("noise", FRAMES)))


def test_copies_learn_apart(two: Two) -> None:
    """Gradients of two copies of a unit in the flow, which has no dropout, are not one another's
    multiples: AdamW, which does not see their size, would move both alike."""
    (z,) = two.latents("latents", FRAMES)[1:]
    mask = two.mask(two.frames, FRAMES)
    weights = jnp.asarray(random("loss").standard_normal(z.shape), jnp.float32)
    name = "flow.flows.2.enc.in_layers.0.weight_v"
    module = abstract_networks(two.new).generator
    params = grown(two.old, two.new)[1]

    def loss(own: jax.Array, params: Any) -> jax.Array:
        g = bind(module, {**params, name: own})
        return jnp.sum(weights * g.flow(z * mask, mask, g.speaker(two.speakers)))

    gradient = np.asarray(compiled(jax.grad(loss), params[name], params))
    rows = gradient.reshape(len(gradient), -1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.sum(rows[0::2] * rows[1::2], axis=1)
    assert cosines.max() < 0.999


def test_normed_weights_keep_length_and_direction_apart(two: Two) -> None:
    _, wide, transfer = grown(two.old, two.new)
    normed = [n for n in wide if n.endswith("weight_v")]
    assert len(normed) > 20
    for name in normed:
        v, g = wide[name], wide[f"{name[:-1]}g"]
        length = np.sqrt(np.sum(v * v, axis=tuple(range(1, v.ndim)), keepdims=True))
        np.testing.assert_allclose(length, g, rtol=1e-5)
        assert f"{GENERATOR}.{name[:-1]}g" in transfer.grown


# What has no rule


@pytest.mark.parametrize(
    "more",
    [
        {"hidden_channels": 24},  # layer norms would see another mean
        {"hidden_channels": 8},
        {"hidden_channels": 32, "n_heads": 4},
        {"filter_channels": 48},
        {"inter_channels": 12},
        {"upsample_initial_channel": 48},
        {"resblock_kernel_sizes": (3, 7)},
        {"upsample_rates": (2, 8), "upsample_kernel_sizes": (4, 16)},
    ],
)
def test_what_has_no_rule_is_fresh(more: dict[str, Any]) -> None:
    old = tiny()
    _, wide, transfer = grown(old, old.replaced(more))
    fresh = {name.removeprefix("model_g.") for name in transfer.fresh if name in transfer.left}
    assert fresh
    for name, array in wide.items():
        assert np.isnan(array).all() if name in fresh else not np.isnan(array).any(), name
    assert all(transfer.fresh[f"{GENERATOR}.{name}"].startswith(NO_RULE) for name in fresh)
