"""Where a run begins: from Piper's .ckpt, from one speaker to several, warm."""

from __future__ import annotations

import itertools
import json
import logging
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.cases import tiny
from tests.runs import (
    HOP,
    RATE,
    SMALL,
    SYMBOLS,
    assert_equal,
    flags,
    leaves,
    set_initial_state,
    small,
    stand_in,
    write_dataset,
)
from vits_jax.checkpoints import store
from vits_jax.checkpoints.one_speaker import extract
from vits_jax.checkpoints.piper.ckpt_file import read_ckpt
from vits_jax.checkpoints.piper.reading import read
from vits_jax.checkpoints.source import numpy_state, open_checkpoint
from vits_jax.checkpoints.warm_start import from_single_speaker, hears_speaker, warm_start
from vits_jax.commands.train import main
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.networks import multi_resolution_shapes, parameter_shapes
from vits_jax.state import TrainState, fresh_state
from vits_jax.text.likeness import NoPhonetics
from vits_jax.training.loop import train
from vits_jax.training.start import Start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quick_step() -> Iterator[None]:
    """Stand-ins for the step, and for initial values: of the real names and shapes, and every
    number of a state another one, so that nothing can be mistaken for something else."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        patch.setitem(SMALL, "use_sdp", False)  # a third fewer tensors to save and restore
        set_initial_state(patch, numbered_state)
        yield


def numbered_state(config: Config, key: jax.Array) -> TrainState:
    seed = jax.random.uniform(key)

    def numbers(name: str, shape: tuple[int, ...]) -> jax.Array:
        first = seed + zlib.crc32(name.encode()) % 1000
        return first + jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)

    params = {
        network: {name: numbers(name, shape) for name, shape in shapes.items()}
        for network, shapes in parameter_shapes(config).items()
    }
    return fresh_state(params)


def params(run_dir: Path) -> dict[str, np.ndarray]:
    """``{"model_g.NAME": array}`` of a run's newest checkpoint."""
    return {
        path.replace("['params']", "")[2:-2].replace("']['", "."): array
        for path, array in leaves(run_dir).items()
        if path.startswith("['params']")
    }


class Begun(Exception):
    """A run has its first state, and goes no further."""


def begin(dataset: Path, run_dir: Path, **more: Any) -> dict[str, np.ndarray]:
    """The parameters that a run begins with, like `params`."""
    make_state = Start.state

    def stop(*arguments: Any) -> TrainState:
        raise Begun(make_state(*arguments))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Begun) as begun:
        patch.setattr(Start, "state", stop)
        train(small(dataset, run_dir, **more))
    (state,) = begun.value.args
    assert state.step == 0
    assert not any(np.any(x) for x in jax.tree.leaves(state.optimizer))
    return {
        f"{network}.{name}": np.asarray(array)
        for network, some in state.params.items()
        for name, array in some.items()
    }


@pytest.fixture(scope="module")
def one_speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("one") / "data", speakers=1)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("several") / "data", speakers=3)


@pytest.fixture(scope="module")
def single(one_speaker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one speaker, its tensors without zeros."""
    run_dir = tmp_path_factory.mktemp("single") / "run"
    train(small(one_speaker, run_dir, max_steps=0, seed=5, gin_channels=0))
    return run_dir


@pytest.fixture(scope="module")
def single_params(single: Path) -> dict[str, np.ndarray]:
    return params(single)


@pytest.fixture(scope="module")
def several_run(several: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("several") / "run"
    train(small(several, run_dir, max_steps=0, seed=5))
    return run_dir


def other_dataset(dataset: Path, directory: Path, **changes: Any) -> Path:
    """The same utterances under another config.json."""
    directory.mkdir()
    for file in dataset.iterdir():
        if file.suffix in (".wav", ".jsonl"):
            (directory / file.name).symlink_to(file)
    config = json.loads((dataset / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    return directory


# One speaker to several


def test_one_speaker_to_several(several, single, single_params, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "vits_jax")
    fresh = begin(several, tmp_path / "fresh")
    converted = begin(several, tmp_path / "run", resume_from_single_speaker_checkpoint=single)
    old = single_params
    speakers = {n for n in fresh if n.startswith("model_g.") and hears_speaker(n[8:])}
    assert fresh.keys() - speakers == old.keys()  # taken and fresh together are all there is
    assert len(speakers) == 1 + 2 + 2 + 3 + 4 * 3
    for name, array in converted.items():
        np.testing.assert_array_equal(array, (fresh if name in speakers else old)[name], name)
    summary = next(r.message for r in caplog.records if "tensors taken" in r.message)
    assert f"{len(old)} tensors taken, {len(speakers)} fresh" in summary
    assert all(name in summary for name in speakers)
    assert sum(r.levelno == logging.DEBUG for r in caplog.records) >= len(fresh)


@pytest.mark.parametrize(
    ("data", "checkpoint", "message"),
    [
        ("one_speaker", "single", "num_speakers 1, expected more.*use --resume_from_checkpoint"),
        ("several", "several_run", "it has 3 speakers, expected one.*--warmstart_ckpt"),
    ],
)
def test_conversions_that_are_none(request, tmp_path, data, checkpoint, message):
    flag = {"resume_from_single_speaker_checkpoint": request.getfixturevalue(checkpoint)}
    with pytest.raises(UserError, match=message):
        begin(request.getfixturevalue(data), tmp_path / "run", **flag)
    assert not (tmp_path / "run").exists()


def test_all_that_does_not_fit_is_listed(several, single, tmp_path):
    with pytest.raises(UserError) as caught:
        flag = {"resume_from_single_speaker_checkpoint": single, "filter_channels": 48}
        begin(several, tmp_path / "run", **flag)
    message = str(caught.value)
    assert message.count("got (") == 3, message  # two weights and a bias of one layer
    assert "ffn_layers.0.conv_2.weight: got (16, 32, 3), expected (16, 48, 3)" in message


# Several speakers to one


@pytest.mark.parametrize("flag", ["resume_from_checkpoint", "warmstart_ckpt"])
def test_a_run_begins_with_one_of_several(one_speaker, several_run, tmp_path, flag):
    extract(open_checkpoint(several_run), "1").write(tmp_path / "one")
    begun = begin(one_speaker, tmp_path / "run", gin_channels=0, **{flag: tmp_path / "one"})
    assert_equal(begun, params(tmp_path / "one"))


# Warm starts


def test_warm_start_takes_what_fits(one_speaker, single, single_params, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vits_jax")
    more = {"gin_channels": 0, "filter_channels": 48}
    fresh = begin(one_speaker, tmp_path / "fresh", **more)
    warm = begin(one_speaker, tmp_path / "run", warmstart_ckpt=single, **more)
    old = single_params
    other = {name for name in fresh if fresh[name].shape != old[name].shape}
    assert len(other) == 3
    for name, array in warm.items():
        np.testing.assert_array_equal(array, (fresh if name in other else old)[name], name)
    said = "3 fresh (no rule keeps its function: model_g.enc_p.encoder.ffn_layers.0"
    assert said in caplog.text


def test_warm_start_grows(one_speaker, single, single_params, tmp_path, caplog):
    """A run that begins wider has the narrow run's weights, shared among its copies."""
    caplog.set_level(logging.INFO, "vits_jax")
    more = {"gin_channels": 0, "filter_channels": 64}
    warm = begin(one_speaker, tmp_path / "run", warmstart_ckpt=single, **more)
    old, layer = single_params, "model_g.enc_p.encoder.ffn_layers.0.conv"
    for name in (f"{layer}_1.weight", f"{layer}_1.bias"):
        np.testing.assert_array_equal(warm[name], np.repeat(old[name], 2, axis=0))
    shares = warm[f"{layer}_2.weight"].reshape(16, 32, 2, 3)
    np.testing.assert_allclose(shares.sum(axis=2), old[f"{layer}_2.weight"], rtol=1e-6)
    assert (shares[:, :, 0] != shares[:, :, 1]).all()  # or they would learn alike
    rest = {name for name in warm if not name.startswith(layer)}
    assert all(np.array_equal(warm[name], old[name]) for name in rest)
    assert f"{len(old)} tensors taken (3 of them changed to fit), 0 fresh, 0 left" in caplog.text


def test_what_is_to_begin_fresh(several, single, several_run, tmp_path, caplog):
    """Parts and patterns, at a warm start and from one speaker to several."""
    caplog.set_level(logging.INFO, "vits_jax")
    fresh = begin(several, tmp_path / "fresh")
    words = {"reinit": "dec, discriminators,enc_p.emb.*"}
    for flag, source in (
        ("warmstart_ckpt", several_run),
        ("resume_from_single_speaker_checkpoint", single),
    ):
        old = params(source)
        begun = begin(several, tmp_path / "run", **{flag: source}, **words)
        for name, array in begun.items():
            begins = name.startswith(("model_g.dec.", "model_d.", "model_g.enc_p.emb."))
            begins = begins or (source == single and hears_speaker(name.removeprefix("model_g.")))
            np.testing.assert_array_equal(array, (fresh if begins else old)[name], name)
    assert "--reinit discriminators: model_d.disc" in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reinit": "dec"}, "--reinit dec: expected with --resume_from_single.* or --warmstart"),
        ({"reinit": "dec", "resume_from_checkpoint": "x"}, "--reinit dec: expected with"),
        ({"reinit": "enq_p", "warmstart_ckpt": True}, "has no such part.*did you mean enc_p"),
        ({"reinit": "emb_g", "warmstart_ckpt": True}, "the checkpoint .* has no such part"),
    ],
)
def test_nothing_to_begin_fresh(one_speaker, single, tmp_path, more, message):
    more = {flag: single if value is True else value for flag, value in more.items()}
    with pytest.raises(UserError, match=message):
        begin(one_speaker, tmp_path / "run", gin_channels=0, **more)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_without_what_it_began_with(one_speaker, single, tmp_path):
    more = {"gin_channels": 0, "max_steps": 0}
    train(small(one_speaker, tmp_path / "run", warmstart_ckpt=single, reinit="dec", **more))
    before = leaves(tmp_path / "run")
    train(small(one_speaker, tmp_path / "run", **more))
    assert_equal(before, leaves(tmp_path / "run"))


def test_vocoder_warm_start(one_speaker, single, single_params, tmp_path):
    fresh = begin(one_speaker, tmp_path / "fresh", gin_channels=0)
    flag = {"vocoder_warmstart_ckpt": single, "gin_channels": 0}
    warm = begin(one_speaker, tmp_path / "run", **flag)
    old, taken = single_params, 0
    for name, array in warm.items():
        vocoder = name.startswith(("model_g.dec.", "model_g.enc_q.", "model_g.flow."))
        np.testing.assert_array_equal(array, (old if vocoder else fresh)[name], name)
        taken += vocoder
    assert taken > 50


def test_rows_go_by_name(several, several_run, tmp_path):
    """More speakers and symbols, which sound like nothing, in another order: each keeps its row."""
    old = params(several_run)
    speakers = {"newcomer": 0, "speaker 2": 1, "speaker 0": 2, "speaker 1": 3, "another": 4}
    symbols = "_^$ " + "".join(reversed(SYMBOLS[4:])) + "§¶†"
    bigger = other_dataset(
        several,
        tmp_path / "bigger",
        num_speakers=5,
        speaker_id_map=speakers,
        num_symbols=len(symbols),
        phoneme_id_map={symbol: [i] for i, symbol in enumerate(symbols)},
    )
    fresh = begin(bigger, tmp_path / "fresh")
    warm = begin(bigger, tmp_path / "run", warmstart_ckpt=several_run)
    table = "model_g.emb_g.weight"
    for name, row in speakers.items():
        was = {"speaker 0": 0, "speaker 1": 1, "speaker 2": 2}.get(name)
        expected = fresh[table][row] if was is None else old[table][was]
        np.testing.assert_array_equal(warm[table][row], expected)
    table = "model_g.enc_p.emb.weight"
    for row, symbol in enumerate(symbols):
        expected = old[table][SYMBOLS.index(symbol)] if symbol in SYMBOLS else fresh[table][row]
        np.testing.assert_array_equal(warm[table][row], expected)
    rest = warm.keys() - {table, "model_g.emb_g.weight"}
    assert all(np.array_equal(warm[name], old[name]) for name in rest)


def test_new_symbols_begin_as_what_they_sound_like(
    one_speaker, single, single_params, tmp_path, caplog, monkeypatch
):
    caplog.set_level(logging.INFO, "vits_jax")
    symbols = "".join(reversed(SYMBOLS)) + "ʃɛ!"
    bigger = other_dataset(
        one_speaker,
        tmp_path / "bigger",
        num_symbols=len(symbols) + 1,
        phoneme_id_map={s: [i] for i, s in enumerate(symbols)} | {"ɒ": [29, len(symbols)]},
    )
    flag = {"warmstart_ckpt": single, "gin_channels": 0, "hidden_channels": 32}
    table = "model_g.enc_p.emb.weight"
    fresh = begin(bigger, tmp_path / "fresh", gin_channels=0, hidden_channels=32)[table]

    def sounds(symbols: list[str], among: list[str]) -> dict[str, str]:
        assert symbols == ["ʃ", "ɛ", "!", "ɒ"] and among == list(SYMBOLS)
        return {"ʃ": "s", "ɛ": "e", "ɒ": "o"}

    monkeypatch.setattr("vits_jax.checkpoints.warm_start.nearest_by_sound", sounds)
    warm = begin(bigger, tmp_path / "run", **flag)[table]
    old = np.repeat(single_params[table], 2, axis=1) / np.sqrt(np.float32(2))
    like = dict(zip(symbols, symbols)) | {"ʃ": "s", "ɛ": "e"}
    for row, symbol in enumerate(symbols):
        known = symbol != "!"
        expected = old[SYMBOLS.index(like[symbol])] if known else fresh[row]
        np.testing.assert_allclose(warm[row], expected, rtol=1e-6)
    np.testing.assert_array_equal(warm[-1], fresh[-1])  # the second id of a symbol; o has one
    assert "begin as the nearest: ʃ as s, ɛ as e" in caplog.text

    def nobody(symbols: list[str], among: list[str]) -> dict[str, str]:
        raise NoPhonetics

    monkeypatch.setattr("vits_jax.checkpoints.warm_start.nearest_by_sound", nobody)
    warm = begin(bigger, tmp_path / "other", **flag)[table]
    np.testing.assert_array_equal(warm[len(SYMBOLS) :], fresh[len(SYMBOLS) :])
    assert "4 symbols are new and begin fresh (ʃ ɛ ! ɒ): with pip install" in caplog.text


def test_nothing_fits(one_speaker, single, tmp_path):
    config = tmp_path / "other.yaml"
    config.write_text(json.dumps(SMALL | {"hidden_channels": 24, "inter_channels": 24}))
    more = {"upsample_initial_channel": 24, "config": config, "gin_channels": 0}
    flag = {"vocoder_warmstart_ckpt": single, "resblock_kernel_sizes": "[7,9]"}
    more |= {"upsample_kernel_sizes": "[6,6]", "filter_length": 128}
    with pytest.raises(UserError, match="nothing to start from.*--quality"):
        begin(one_speaker, tmp_path / "run", **flag, **more)
    assert not (tmp_path / "run").exists()


# Piper's files


@pytest.fixture(scope="module")
def piper_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model like `SMALL`, of three speakers, at epoch 3 and batch 2."""
    pytest.importorskip("torch")
    from tests.checkpoints.piper.ckpts import ckpt, write
    from vits_jax.config import FIELDS, convert

    values = {n: v for n, v in SMALL.items() if FIELDS[n].section in ("model", "audio")}
    values |= {"num_symbols": len(SYMBOLS), "num_speakers": 3, "sample_rate": RATE}
    config = Config().replaced({n: convert(v, FIELDS[n].type, n) for n, v in values.items()})
    assert config.audio.hop_length == HOP
    content = ckpt(config)
    content["optimizer_states"][1]["param_groups"][0].update(lr=1e-4, betas=(0.5, 0.9))
    return write(content, tmp_path_factory.mktemp("piper") / "voice.ckpt")


def test_resume_from_a_ckpt(several, piper_file, tmp_path):
    """Weights, moments, epoch and step; settings of the optimizers but for those given."""
    # (max_steps is reached: the stand-in step trains nothing worth comparing)
    command = flags(several, tmp_path / "run", max_steps=2, resume_from_checkpoint=piper_file)
    assert main([*command, "--learning-rate", "3e-5"]) == 0
    state = leaves(tmp_path / "run")
    theirs = read_ckpt(piper_file)
    for network, name in (
        ("model_g", "enc_p.emb.weight"),
        ("model_d", "discriminators.0.convs.0.bias"),
    ):
        expected = theirs["state_dict"][f"{network}.{name}"].numpy()
        np.testing.assert_array_equal(state[f"['params']['{network}']['{name}']"], expected)
    assert state["['step']"] == 2
    assert state["['optimizer']['model_g']['count']"] == 2
    mu = state["['optimizer']['model_g']['mu']['enc_p.emb.weight']"]
    np.testing.assert_array_equal(mu, theirs["optimizer_states"][0]["state"][0]["exp_avg"])
    metadata = store.read_metadata(store.resolve(tmp_path / "run"))
    o = metadata.config.optimizer
    assert metadata.position.epoch == 3
    assert metadata.learning_rates() == (3e-5, 1e-4)  # the flag's, from here on; the checkpoint's
    assert o.betas_d == (0.5, 0.9)
    # The same command goes on from the run's own checkpoint, with the same settings.
    command[command.index("--max_steps=2")] = "--max_steps=3"
    assert main([*command, "--learning-rate", "3e-5"]) == 0
    assert leaves(tmp_path / "run")["['step']"] >= 3


def test_another_decay_begins_at_the_rate_there_is(several, piper_file, tmp_path, caplog):
    caplog.set_level(logging.INFO, "vits_jax")
    command = flags(several, tmp_path / "run", max_steps=2, resume_from_checkpoint=piper_file)
    assert main([*command, "--lr-decay-d", "1"]) == 0
    metadata = store.read_metadata(store.resolve(tmp_path / "run"))
    assert metadata.config.optimizer.lr_decay_d == 1
    assert metadata.learning_rates() == (2e-4, 1e-4)
    assert "nothing is left to train" in caplog.text  # the checkpoint is at step 2


def test_a_ckpt_of_other_sizes(several, piper_file, tmp_path):
    flag = {"resume_from_checkpoint": piper_file, "filter_channels": 48}
    with pytest.raises(UserError, match="--filter-channels was 32 and is now 48.*--warmstart_ckpt"):
        begin(several, tmp_path / "run", **flag)


def test_rows_of_a_ckpt_go_by_its_voice_config(several, piper_file, tmp_path):
    table = "model_g.emb_g.weight"
    old = read_ckpt(piper_file)["state_dict"][table].numpy()
    swapped = {"speaker 2": 0, "speaker 1": 1, "speaker 0": 2}
    voice = other_dataset(several, tmp_path / "theirs", speaker_id_map=swapped) / "config.json"
    flag = {"warmstart_ckpt": piper_file}
    plain = begin(several, tmp_path / "plain", **flag)
    np.testing.assert_array_equal(plain[table], old)
    named = begin(several, tmp_path / "named", voice_config=voice, **flag)
    np.testing.assert_array_equal(named[table], old[::-1])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"warmstart_ckpt": "a", "resume_from_checkpoint": "b"}, "expected one of them"),
        ({"voice_config": "a.json"}, "--voice-config a.json: expected a .ckpt to go with"),
        ({"warmstart_ckpt": "none.ckpt"}, "none.ckpt: no such file"),
    ],
)
def test_flags_that_cannot_be(several, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        begin(several, tmp_path / "run", **more)


# Discriminators of spectra, in one of both runs


SPECTRAL = {"use_mrd": True, "segment_size": 1024}


def networks_of(run_dir: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays of a run's newest checkpoint, by path: of ``model_mrd``, and all others."""
    arrays = leaves(run_dir)
    own = {path: x for path, x in arrays.items() if "['model_mrd']" in path}
    return own, {path: x for path, x in arrays.items() if path not in own}


def test_discriminators_of_spectra_join_a_run_and_leave_it(several, piper_file, tmp_path, caplog):
    """They begin fresh, moments too; all else goes on, and goes on without them."""
    caplog.set_level(logging.INFO, "vits_jax")
    runs = [tmp_path / name for name in ("with", "without")]
    for source, run_dir, more in zip((piper_file, runs[0]), runs, (SPECTRAL, {})):
        more = {"resume_from_checkpoint": source, "max_steps": 2, **more}
        assert main(flags(several, run_dir, **more)) == 0
    (joined, others), (none, after) = map(networks_of, runs)
    state = numpy_state(read(piper_file), piper_file).to_dict()
    theirs = {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(state)}
    assert not none
    assert_equal(others, theirs)
    assert_equal(others, after)
    count = len(multi_resolution_shapes())
    assert len(joined) == 3 * count + 1
    config = small(several, runs[0], **SPECTRAL)
    config = config.replaced({"num_symbols": len(SYMBOLS), "num_speakers": 3})
    fresh = numbered_state(config, jax.random.key(config.run.seed)).params["model_mrd"]
    for path, array in joined.items():
        name = path.rpartition("['")[2].removesuffix("']")
        expected = fresh[name] if path.startswith("['params']") else np.zeros_like(array)
        np.testing.assert_array_equal(array, expected, path)
    assert f"its {count} tensors begin fresh" in caplog.text
    assert f"{count} tensors are left out (--use-mrd is not set): model_mrd.disc" in caplog.text
    with pytest.raises(UserError, match="--use-mrd was True and is now False.*another --run-dir"):
        train(small(several, runs[0], segment_size=1024))


@pytest.mark.parametrize("flag", ["warm start", "one speaker to several"])
def test_new_runs_account_for_discriminators_of_spectra(flag):
    """Of networks that one side has not every tensor is fresh or left."""
    shapes = {
        (spectral, speakers): parameter_shapes(
            tiny(speakers=speakers).replaced({"use_mrd": spectral, "n_layers": 1})
        )
        for spectral in (False, True)
        for speakers in (1, 3)
    }
    networks = {f"model_mrd.{name}" for name in multi_resolution_shapes()}
    for has, wants in itertools.product((False, True), repeat=2):
        metadata = SimpleNamespace(config=tiny(), dataset={})
        old = {"where": "x", "unused": (), "shapes": shapes[has, 1], "metadata": metadata}
        source: Any = SimpleNamespace(**old)
        target = shapes[wants, 3]
        several = flag == "one speaker to several"
        new = tiny(speakers=3).replaced({"use_mrd": wants, "n_layers": 1})
        found = from_single_speaker(source, target) if several else warm_start(source, new, {})
        here, there = (
            {f"{network}.{n}" for network, some in side.items() for n in some}
            for side in (target, source.shapes)
        )
        assert {*found.taken, *found.fresh} == here
        assert found.taken.keys().isdisjoint(found.fresh)
        assert {*found.taken, *found.left} >= there
        for kind, expected in (
            ("taken", has and wants),
            ("fresh", wants and not has),
            ("left", has and not wants),
        ):
            assert networks & getattr(found, kind).keys() == (networks if expected else set())
