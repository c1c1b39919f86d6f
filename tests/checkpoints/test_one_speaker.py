"""A speaker that is taken out of a checkpoint: says the same, every tensor accounted for."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import SingleDeviceSharding

from tests.checkpoints.piper.ckpts import SEVERAL, SPECTRAL, ckpt, write
from tests.parity import oracle
from tests.parity.cases import QUICK_COMPILATION, batch, smallest, tiny, to_jax
from tests.parity.comparing import assert_all_close, assert_close, relative
from tests.parity.injected import Injected
from vits_jax.checkpoints import store
from vits_jax.checkpoints.one_speaker import account, extract, single
from vits_jax.checkpoints.piper.convert import export_ckpt
from vits_jax.checkpoints.saving import write_new
from vits_jax.checkpoints.source import UNHEARD, Source, open_checkpoint
from vits_jax.checkpoints.warm_start import hears_speaker, warm_start
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.audio import dequantise, spectrogram
from vits_jax.model.duration import DurationPredictor
from vits_jax.model.networks import abstract_networks, parameter_shapes
from vits_jax.model.parameters import bind
from vits_jax.model.synthesizer import Synthesizer
from vits_jax.state import Position, TrainState, abstract_state

CPU = SingleDeviceSharding(jax.devices()[0])
NAMES = {"anna": 0, "bob": 1, "cleo": 2, "dan": 3}
STOCHASTIC = smallest(resblock="1").replaced({"num_speakers": 4})
PLAIN = tiny(speakers=4, use_sdp=False).replaced({"discriminator_width": 16})
CONFIGS = pytest.mark.parametrize("config", [STOCHASTIC, PLAIN], ids=["stochastic", "plain"])
DATASET = {
    "audio": {"sample_rate": 8000},
    "language": {"code": "en_US", "family": "en"},
    "num_symbols": 24,
    "num_speakers": 4,
    "speaker_id_map": NAMES,
    "phoneme_id_map": {"_": [0], "a": [5]},
}
BOUND = 1e-5


@functools.cache
def weights(config: Config, seed: int) -> dict[str, np.ndarray]:
    """A generator without zeros; what makes the durations is small enough for some of each."""
    network = oracle.generator(config.model, config.audio, seed=seed)
    return oracle.flat(oracle.randomize(network, seed, gain=1.5))


@functools.cache
def state(config: Config) -> TrainState:
    """Of a run: two networks, moments of both, and averages that are other weights."""
    random = np.random.default_rng(0)
    judges = oracle.randomize(oracle.discriminator(config.model.discriminator_width), 2)
    params = {"model_g": weights(config, 1), "model_d": oracle.flat(judges)}

    def moments(own: dict[str, np.ndarray]) -> dict[str, Any]:
        def some() -> dict[str, np.ndarray]:
            return {n: random.normal(size=x.shape).astype(np.float32) for n, x in own.items()}

        return {"count": np.array(7, np.int32), "mu": some(), "nu": some()}

    optimizer = {network: moments(own) for network, own in params.items()}
    averages = {"model_g": weights(config, 3)}
    return TrainState(np.array(7, np.int32), params, optimizer, averages)


@dataclass(frozen=True)
class Held:
    """A `Source` in memory: a thousand arrays take seconds to come from a disk."""

    held: TrainState
    metadata: store.Metadata
    where: Path = Path("run/checkpoints/7")
    unused: Sequence[str] = ()

    @property
    def averaged(self) -> bool:
        return bool(self.held.averages)

    @property
    def whole(self) -> bool:
        return bool(self.held.optimizer)

    @property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        return {n: {k: x.shape for k, x in own.items()} for n, own in self.held.params.items()}

    def parameters(self, names: Any, sharding: Any) -> Any:
        return {n: {k: self.held.params[n][k] for k in some} for n, some in names.items()}

    def generator(self, sharding: Any, averages: bool = False) -> Any:
        return (self.held.averages if averages else self.held.params)["model_g"]

    def state(self, target: TrainState) -> TrainState:
        found = self.held if target.averages else self.held.replace(averages={})
        assert jax.tree.structure(found) == jax.tree.structure(target)
        return found


def source_of(config: Config, whole: TrainState | None = None, **dataset: Any) -> Source:
    """A checkpoint in the middle of an epoch."""
    config = config.replaced({"ema_decay": 0.9, "part_rates": ("dec=0.5", "emb_g=0", "dp.cond*=2")})
    metadata = store.Metadata(config, Position(7, 2, 3), DATASET | dataset, {"dataset": "abc"}, 1)
    return Held(whole or state(config), metadata)


# That it says the same


def heard(module: Synthesizer, material: dict[str, Any], speakers: Any) -> dict[str, Any]:
    """All that the networks compute, of a batch with padding, without noise and with it."""
    ids, lengths = material["phoneme_ids"], material["phoneme_lengths"]
    spec, frames = material["spec"], material["frames"]
    random, silent = Injected(3), 0.0
    text = module.encode(ids, lengths, speakers, random, noise_w=silent)
    x, m_p, logs_p, mask = module.enc_p(ids, lengths, random)
    found = {
        "durations": text.durations,
        "prior's mean": m_p,
        "prior's log-scale": logs_p,
        "log durations": module.dp.log_durations(x, mask, module.speaker(speakers), random, 0.8),
        "loss of durations": module.duration_nll(
            x, lengths, speakers, frames[:, None] + ids, random
        ),
    }
    if isinstance(module.dp, DurationPredictor):
        return found  # the rest is the same as with stochastic durations
    alone, ended = module.decode(
        text, speakers, random, n_frames=96, noise_scale=silent, alone=True
    )
    batched, _ = module.decode(text, speakers, random, n_frames=96)
    posterior = module.posterior(spec, frames, speakers, random)
    aligned = module.align(ids, lengths, speakers, frames, posterior, random, spec.dtype)
    return found | {
        "frames": ended,
        "audio, each row alone": alone,
        "audio with noise, as a batch": batched,
        "posterior": posterior.z,
        "posterior's log-scale": posterior.logs_q,
        "after the flow": aligned.z_p,
        "aligned": aligned.durations,
        "a segment": module.generate(posterior.z[:, :8], speakers, spec.dtype),
    }


@functools.cache
def material() -> dict[str, Any]:
    """Three rows of several lengths, none as long as the batch."""
    made = batch(STOCHASTIC)
    assert max(made["phoneme_lengths"]) < made["phoneme_ids"].shape[1]
    samples = jnp.asarray(made["audio_lengths"])
    audio = dequantise(jnp.asarray(made["audio"]))
    made["spec"] = np.asarray(spectrogram(audio, samples, STOCHASTIC.audio))
    made["frames"] = np.asarray(made["audio_lengths"] // STOCHASTIC.audio.hop_length, np.int32)
    return {n: made[n] for n in ("phoneme_ids", "phoneme_lengths", "spec", "frames")}


@functools.cache
def program(config: Config) -> Any:
    network = abstract_networks(config).generator

    def run(parameters: dict[str, jax.Array], material: Any, speakers: Any) -> dict[str, Any]:
        return heard(bind(network, parameters), material, speakers)

    cached: dict[str, Any] = {}

    def call(parameters: dict[str, np.ndarray], speaker: int) -> dict[str, np.ndarray]:
        arguments = (to_jax(parameters), material(), np.full(3, speaker, np.int32))
        if not cached:
            cached["run"] = jax.jit(run).lower(*arguments).compile(QUICK_COMPILATION)
        return jax.device_get(cached["run"](*arguments))

    return call


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    whole_numbers = {name for name, x in expected.items() if x.dtype == np.int32}
    assert "durations" in whole_numbers
    for name in whole_numbers:
        np.testing.assert_array_equal(got[name], expected[name], name)
    others = expected.keys() - whole_numbers
    assert_all_close({n: got[n] for n in others}, {n: expected[n] for n in others}, BOUND)


@CONFIGS
def test_each_speaker_says_the_same(config: Config) -> None:
    source = source_of(config)
    said = []
    for name, number in NAMES.items():
        one = extract(source, name)
        for part in ("params", "averages"):
            expected = program(config)(getattr(state(config), part)["model_g"], number)
            got = program(single(config))(getattr(one.state, part)["model_g"], 0)
            assert_same(got, expected)
            said.append(expected)
    assert np.ptp([x["durations"].sum() for x in said]) > 0
    for name in ("log durations", "audio, each row alone", "posterior", "a segment"):
        for one_said, other in itertools.combinations(said if name in said[0] else (), 2):
            # Everybody is somebody else, or nothing would be shown.
            assert relative(one_said[name], other[name]) > 100 * BOUND, name


@CONFIGS
def test_a_mixture_is_that_embedding(config: Config) -> None:
    own = state(config).params["model_g"]
    table = own["emb_g.weight"].copy()
    table[2] = 0.7 * table[0] + 0.3 * table[3]
    expected = program(config)(own | {"emb_g.weight": table}, 2)
    one = extract(source_of(config), "anna=7,dan=3")
    assert one.who == "0.7 anna + 0.3 dan"
    assert_same(program(single(config))(one.state.params["model_g"], 0), expected)


# What is in it


@CONFIGS
def test_every_tensor_is_accounted_for(config: Config) -> None:
    one = extract(source_of(config), "cleo")
    old, new, what = state(config), one.state, one.account
    every = {f"{network}.{name}" for network, own in old.params.items() for name in own}
    lists = (what.copied, what.changed, what.gone)
    assert sorted(name for names in lists for name in names) == sorted(every)
    assert {n for n in every if n[:8] == "model_g." and hears_speaker(n[8:])} == set(what.gone)
    biases = 1 + 16 + 4 * 4 + (1 if config is STOCHASTIC else 2)
    assert len(what.changed) == biases
    assert what.left == []

    assert {n: {k: x.shape for k, x in own.items()} for n, own in new.params.items()} == {
        network: dict(shapes) for network, shapes in parameter_shapes(single(config)).items()
    }
    for network, own in new.params.items():
        for name, array in own.items():
            assert array.dtype == np.float32
            same = np.array_equal(array, old.params[network][name])
            assert same == (f"{network}.{name}" in what.copied), name
            for part in ("mu", "nu"):
                moment = new.optimizer[network][part][name]
                np.testing.assert_array_equal(moment, old.optimizer[network][part][name])
        assert new.optimizer[network]["mu"].keys() == own.keys()
        assert new.optimizer[network]["count"] == 7
    assert new.averages["model_g"].keys() == new.params["model_g"].keys()


def test_what_the_checkpoint_says(tmp_path: Path) -> None:
    """Out of one on disk, which is another on disk."""
    held = source_of(STOCHASTIC)
    write_new(tmp_path / "run", 7, state(STOCHASTIC).to_dict(), held.metadata)
    several = open_checkpoint(tmp_path / "run")
    step_dir = extract(several, "bob").write(tmp_path / "bob")
    assert step_dir == tmp_path / "bob" / "checkpoints" / "7"
    source = open_checkpoint(tmp_path / "bob")
    metadata, before = source.metadata, several.metadata
    assert metadata.dataset == DATASET | {"num_speakers": 1, "speaker_id_map": {}}
    assert metadata.config.model == single(STOCHASTIC).model
    for section in ("audio", "data", "run"):
        assert getattr(metadata.config, section) == getattr(before.config, section)
    assert metadata.config.optimizer.part_rates == ("dec=0.5",)  # the others have no part here
    assert metadata.config.optimizer.ema_decay == 0.9
    assert metadata.learning_rates() == before.learning_rates()
    assert (metadata.position, metadata.plan) == (Position(7, 2, 0), {})
    # A run goes on from it, and begins with it.
    target = abstract_state(metadata.config, CPU)
    restored = source.state(target)
    assert restored.step == 7
    assert restored.averages.keys() == {"model_g"}
    transfer = warm_start(source, single(STOCHASTIC), metadata.dataset)
    assert not transfer.fresh
    assert not transfer.left


def test_weights_alone_stay_so() -> None:
    """Here those of an ONNX voice, which has no posterior encoder."""
    own = state(STOCHASTIC).params["model_g"]
    voice = {name: x for name, x in own.items() if not name.startswith(UNHEARD)}
    alone = TrainState(np.array(0, np.int32), {"model_g": voice})
    one = extract(source_of(STOCHASTIC, alone), "3")
    assert one.state.optimizer == one.state.averages == {}
    assert {name for name in own if not hears_speaker(name) and name in voice} == set(
        one.state.params["model_g"]
    )
    whole = program(single(STOCHASTIC))
    absent = {n: own[n] for n in own if n.startswith(UNHEARD) and not hears_speaker(n)}
    got = whole(one.state.params["model_g"] | absent, 0)
    expected = program(STOCHASTIC)(own, 3)
    for name in ("durations", "audio, each row alone", "audio with noise, as a batch"):
        assert_close(got[name], expected[name], BOUND, name)


# Piper's


def test_piper_says_the_same_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .ckpt, extracted, and back as a .ckpt of one speaker, spoken by Piper's modules."""
    monkeypatch.setattr("vits_jax.checkpoints.piper.convert.PIPER_WIDTH", 16)
    values = ckpt(SEVERAL)
    source = open_checkpoint(write(values, tmp_path / "three.ckpt"))
    extract(source, "2").write(tmp_path / "one")
    export_ckpt(tmp_path / "one", tmp_path / "one.ckpt")
    after = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert after["hyper_parameters"]["num_speakers"] == 1
    assert (after["epoch"], after["global_step"]) == (values["epoch"], values["global_step"])
    ids = torch.tensor([[1, 0, 7, 0, 12, 0, 5, 0, 2]])
    said = []
    for config, content, speaker in (
        (SEVERAL, values, torch.tensor([2])),
        (single(SEVERAL), after, None),
    ):
        network = oracle.generator(config.model, config.audio)
        own = {n[8:]: x for n, x in content["state_dict"].items() if n.startswith("model_g.")}
        network.load_state_dict(own, strict=True)
        lengths = torch.tensor([ids.shape[1]])
        with torch.no_grad():
            audio = network.infer(ids, lengths, sid=speaker, noise_scale=0.0, noise_scale_w=0.0)[0]
        said.append(audio[0, 0].numpy())
    assert_close(said[1], said[0], BOUND)


def test_discriminators_of_spectra_come_along(tmp_path: Path) -> None:
    config = SPECTRAL.replaced({"num_speakers": 3, "gin_channels": 8})
    values = ckpt(config, steps=1)
    one = extract(open_checkpoint(write(values, tmp_path / "three.ckpt")), "1")
    assert one.state.params.keys() == {"model_g", "model_d", "model_mrd"}
    assert one.metadata.config.model.use_mrd
    for name, array in one.state.params["model_mrd"].items():
        np.testing.assert_array_equal(array, values["state_dict"][f"model_mrd.{name}"].numpy())


# What cannot be


def planted(change: dict[str, np.ndarray | None]) -> Source:
    own = state(STOCHASTIC).params["model_g"] | change
    own = {name: array for name, array in own.items() if array is not None}
    params = {"model_g": own, "model_d": state(STOCHASTIC).params["model_d"]}
    return source_of(STOCHASTIC, TrainState(np.array(7, np.int32), params))


def test_all_that_cannot_be_accounted_for() -> None:
    small = np.zeros(3, np.float32)
    source = planted(
        {
            "dec.ups.0.bias": None,
            "dp.cond.bias": small,
            "dp.condition.weight": small,
            "flow.flows.2.enc.cond_layer.weight_g": None,
            "enc_q.enc.in_layers.3.bias": None,
            "enc_p.more.weight": small,
        },
    )
    with pytest.raises(UserError) as refused:
        account(source)
    message = str(refused.value)
    for part in (
        "7: not all tensors can be accounted for: ",
        "model_g.dec.ups.0.bias: missing",
        "model_g.dp.cond.bias: got [3], expected [16]",
        "model_g.dp.condition.weight: got [3], expected none",
        "model_g.flow.flows.2.enc.cond_layer.weight_g: missing",
        "model_g.enc_q.enc.in_layers.3.bias: missing",
        "model_g.enc_p.more.weight: got [3], expected none",
    ):
        assert part in message
    assert message.count(";") == 5
    assert "\n" not in message


def test_what_hears_the_speaker_in_no_known_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part that the model may come to have, and nobody thought of here."""
    from vits_jax.checkpoints import one_speaker, speaker_folds

    for module in (one_speaker, speaker_folds):
        monkeypatch.setattr(
            module, "hears_speaker", lambda name: hears_speaker(name) or "dec.conv_post" in name
        )
    with pytest.raises(UserError, match=r"model_g\.dec\.conv_post\.weight: .*not known where"):
        account(source_of(STOCHASTIC))


def test_weights_that_are_not_finite() -> None:
    own = state(STOCHASTIC).params["model_g"]["emb_g.weight"].copy()
    own[1, 0] = np.nan
    source = planted({"emb_g.weight": own})
    assert extract(source, "anna").who == "anna"
    with pytest.raises(UserError, match=r"not finite \(34 of \d+ tensors, such as d"):
        extract(source, "bob")


def test_one_speaker_has_nobody_to_leave() -> None:
    one = extract(source_of(PLAIN), "dan")
    with pytest.raises(UserError, match="7: it has one speaker: expected a checkpoint with sev"):
        extract(Held(one.state, one.metadata), "dan")


def test_names_without_a_map() -> None:
    source = source_of(STOCHASTIC, speaker_id_map=None)
    assert extract(source, "3=1,0=1").who == "0.5 speaker 3 + 0.5 speaker 0"
    with pytest.raises(UserError, match="--speaker ana: no speaker 'ana'.*ids from 0 to 3"):
        extract(source, "ana")
