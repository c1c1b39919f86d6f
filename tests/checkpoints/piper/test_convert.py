"""Piper's .ckpt files: what they hold arrives, and leaves again unchanged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.sharding import SingleDeviceSharding

from tests.checkpoints.piper.ckpts import SEVERAL, SMALLEST, SPECTRAL, ckpt, write
from tests.parity import oracle
from vits_jax.checkpoints import store
from vits_jax.checkpoints.piper import reading as piper
from vits_jax.checkpoints.piper import writing
from vits_jax.checkpoints.piper.convert import export_ckpt, import_ckpt
from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.state import abstract_state

CPU = SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(ckpt(), tmp_path_factory.mktemp("ckpt") / "voice.ckpt")


@pytest.fixture
def any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports discriminators narrower than Piper's, which tests can afford."""
    monkeypatch.setattr("vits_jax.checkpoints.piper.convert.PIPER_WIDTH", 16)


@pytest.mark.parametrize(
    "config", [SMALLEST, SEVERAL, SPECTRAL], ids=["one speaker", "several", "use_mrd"]
)
def test_there_and_back(tmp_path: Path, any_width: None, config: Config) -> None:
    """Import → export: every tensor and moment bit for bit, rates, epoch and step."""
    before = ckpt(config)
    step_dir = import_ckpt(write(before, tmp_path / "in.ckpt"), tmp_path / "run")
    assert step_dir.name == "2"
    export_ckpt(tmp_path / "run", tmp_path / "out.ckpt")
    after = torch.load(tmp_path / "out.ckpt", weights_only=True)

    assert list(after["state_dict"]) == list(before["state_dict"])
    for name, tensor in before["state_dict"].items():
        assert torch.equal(after["state_dict"][name], tensor), name
    for old, new in zip(before["optimizer_states"], after["optimizer_states"], strict=True):
        assert new["state"].keys() == old["state"].keys()
        for number, entry in old["state"].items():
            for name, tensor in entry.items():
                assert torch.equal(new["state"][number][name], tensor), (number, name)
        (new_group,), (old_group,) = new["param_groups"], old["param_groups"]
        assert new_group["lr"] == pytest.approx(old_group["lr"], rel=1e-12)
        for name in ("betas", "eps", "weight_decay", "params"):
            assert new_group[name] == old_group[name], name
    assert (after["epoch"], after["global_step"]) == (3, 4)
    metadata = store.read_metadata(step_dir)
    assert (metadata.position.epoch, metadata.position.batch) == (3, 0)
    assert metadata.config.model == config.model
    assert metadata.config.audio == config.audio


@pytest.mark.parametrize("config", [SMALLEST, SPECTRAL], ids=["", "use_mrd"])
def test_the_oracle_loads_an_export_strictly(
    config: Config, tmp_path: Path, any_width: None
) -> None:
    export_ckpt(write(ckpt(config), tmp_path / "in.ckpt"), tmp_path / "out.ckpt")
    after = torch.load(tmp_path / "out.ckpt", weights_only=True)
    networks = {
        "model_g": oracle.generator(config.model, config.audio),
        "model_d": oracle.discriminator(16),
    }
    if config.model.use_mrd:
        networks["model_mrd"] = oracle.multi_resolution()
    assert {name.partition(".")[0] for name in after["state_dict"]} == set(networks)
    for name, network in networks.items():
        own = {k.partition(".")[2]: v for k, v in after["state_dict"].items() if k.startswith(name)}
        network.load_state_dict(own, strict=True)
    assert after["hyper_parameters"].get("use_mrd", False) is config.model.use_mrd
    optimizers = oracle.optimizers(config, *networks.values())
    for optimizer, state in zip(optimizers, after["optimizer_states"]):
        optimizer.load_state_dict(state)


def test_averages_travel_beside_the_weights(
    tmp_path: Path, any_width: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back bit for bit; Piper loads the file and trains on with the plain weights."""
    values = ckpt()
    weights = {n: x for n, x in values["state_dict"].items() if n.startswith("model_g.")}
    averages = {name: tensor + 1 for name, tensor in weights.items()}
    values |= {"ema_state_dict": averages, "ema_decay": 0.75}
    path = write(values, tmp_path / "in.ckpt")
    import_ckpt(path, tmp_path / "run")
    for source in (open_checkpoint(path), open_checkpoint(tmp_path / "run")):
        assert source.averaged
        assert source.metadata.config.optimizer.ema_decay == 0.75
        for wanted, found in ((averages, True), (weights, False)):
            for name, array in source.generator(CPU, averages=found).items():
                np.testing.assert_array_equal(array, wanted[f"model_g.{name}"].numpy())
    source = open_checkpoint(path)
    target = abstract_state(source.metadata.config, CPU)
    assert source.state(target).averages.keys() == {"model_g"}
    assert source.state(target.replace(averages={})).averages == {}
    export_ckpt(tmp_path / "run", tmp_path / "out.ckpt")
    after = torch.load(tmp_path / "out.ckpt", weights_only=True)
    assert after["ema_decay"] == 0.75
    for part in ("state_dict", "ema_state_dict"):
        assert list(after[part]) == list(values[part])
        assert all(torch.equal(after[part][name], x) for name, x in values[part].items())

    monkeypatch.setattr(
        sys.modules[oracle.VitsModel.__module__],
        "MultiPeriodDiscriminator",
        lambda *_, **__: oracle.discriminator(16),
    )
    model = oracle.VitsModel.load_from_checkpoint(
        tmp_path / "out.ckpt", strict=True, mos_metric="none"
    )
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in values["state_dict"].items())


def test_averages_that_are_not_of_its_weights_are_refused(tmp_path: Path) -> None:
    values = ckpt()
    averages = {n: x for n, x in values["state_dict"].items() if n.startswith("model_g.")}
    averages["model_g.dec.conv_pre.bias"] = torch.ones(3)
    values |= {"ema_state_dict": averages, "ema_decay": 0.75}
    with pytest.raises(UserError, match=r"ema_state_dict: dec\.conv_pre\.bias: not that"):
        open_checkpoint(write(values, tmp_path / "x.ckpt"))
    # Something of another program's that is called so.
    values |= {"ema_state_dict": {"shadow": 1}}
    del values["ema_decay"]
    assert not open_checkpoint(write(values, tmp_path / "y.ckpt")).averaged


def test_an_export_says_nothing_that_pipers_command_line_refuses() -> None:
    import inspect

    known = set(inspect.signature(oracle.VitsModel.__init__).parameters)
    assert set(writing.hyperparameters(SPECTRAL)) <= known
    assert "use_mrd" not in writing.hyperparameters(SMALLEST)  # which is newer than others


def test_narrow_discriminators_are_not_exported(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="discriminator-width 16.*1024 wide"):
        export_ckpt(saved, tmp_path / "out.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_ckpt_is_a_checkpoint_wherever_one_is_named(saved: Path) -> None:
    source = open_checkpoint(saved)
    expected = oracle.flat(oracle.generator(SMALLEST.model, SMALLEST.audio))
    generator = source.generator(CPU)
    assert {name: a.shape for name, a in generator.items()} == {
        name: a.shape for name, a in expected.items()
    }
    assert source.metadata.dataset["num_symbols"] == SMALLEST.model.num_symbols


@pytest.mark.parametrize(
    ("epoch", "loops", "expected"),
    [
        (7, None, 7),
        # Stopped in the middle of epoch 2.
        (2, {"current": {"processed": 2, "completed": 2}, "last": False}, 2),
        # Saved after the last batch of epoch 2, before Lightning counted it.
        (2, {"current": {"processed": 2, "completed": 2}, "last": True}, 3),
        # Saved at the end of epoch 2, counted.
        (2, {"current": {"processed": 3, "completed": 2}, "last": True}, 3),
    ],
)
def test_the_epoch_that_comes_next(tmp_path: Path, epoch: int, loops: Any, expected: int) -> None:
    values = ckpt(epoch=epoch)
    if loops is not None:
        values["loops"] = {
            "fit_loop": {
                "epoch_progress": {"current": loops["current"]},
                "epoch_loop.batch_progress": {"is_last_batch": loops["last"]},
            }
        }
    assert piper.read(write(values, tmp_path / "x.ckpt")).metadata.position.epoch == expected


def test_a_rate_that_was_never_stepped_goes_on(tmp_path: Path) -> None:
    values = ckpt(epoch=50)
    values["optimizer_states"][1]["param_groups"][0].update(lr=1e-4, betas=(0.5, 0.9))
    metadata = piper.read(write(values, tmp_path / "x.ckpt")).metadata
    o = metadata.config.optimizer
    assert metadata.learning_rates()[1] == 1e-4
    assert o.betas_d == (0.5, 0.9)
    assert o.betas == (0.8, 0.99)


def test_tensors_are_right_where_hyperparameters_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = ckpt()
    values["hyper_parameters"]["hidden_channels"] = 192
    assert piper.read(write(values, tmp_path / "x.ckpt")).metadata.config.model == SMALLEST.model
    assert "hidden_channels 192, the tensors 16" in caplog.text


def test_order_and_types_of_hyperparameters_do_not_matter(tmp_path: Path) -> None:
    """Tensors sorted by name, sizes as other types than Piper's: what counts is what they are."""
    values = ckpt()
    expected = piper.read(write(values, tmp_path / "a.ckpt"))
    values["state_dict"] = dict(sorted(values["state_dict"].items()))
    values["hyper_parameters"] |= {"hidden_channels": 16.0, "use_sdp": 1, "mel_fmax": "None"}
    got = piper.read(write(values, tmp_path / "b.ckpt"))
    assert got.metadata.config == expected.metadata.config
    jax.tree.map(np.testing.assert_array_equal, got.optimizer, expected.optimizer)


def test_without_torch_it_says_what_to_install(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"need PyTorch: pip install \"vits_jax\[torch\]\""):
        open_checkpoint(saved)


def test_an_export_does_not_overwrite(saved: Path, tmp_path: Path, any_width: None) -> None:
    (tmp_path / "out.ckpt").touch()
    with pytest.raises(UserError, match="is there already"):
        export_ckpt(saved, tmp_path / "out.ckpt")
    assert (tmp_path / "out.ckpt").read_bytes() == b""


def test_a_file_without_optimizers_speaks_and_starts_warm_only(
    tmp_path: Path, any_width: None
) -> None:
    values = ckpt()
    del values["optimizer_states"]
    path = write(values, tmp_path / "x.ckpt")
    assert len(open_checkpoint(path).generator(CPU)) > 100
    with pytest.raises(UserError, match="no optimizer state: it cannot be continued.*--warmstart"):
        open_checkpoint(path).state(None)
    step_dir = import_ckpt(path, tmp_path / "run")
    assert set(open_checkpoint(step_dir).shapes) == {"model_g", "model_d"}
    with pytest.raises(UserError, match="--warmstart_ckpt"):
        export_ckpt(tmp_path / "run", tmp_path / "out.ckpt")


def test_discriminators_of_spectra_that_are_not_pipers_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are continued: in their optimizer they come first."""
    caplog.set_level("INFO", "vits_jax")
    values, name = ckpt(), "model_mrd.convs.0.weight_g"
    values["state_dict"][name] = torch.ones(2)
    group = values["optimizer_states"][1]["param_groups"][0]
    group["params"] = list(range(len(group["params"]) + 1))
    path = write(values, tmp_path / "x.ckpt")
    expected = piper.read(write(ckpt(), tmp_path / "without.ckpt"))
    got = piper.read(path)
    assert got.left == [name]
    assert got.metadata.config == expected.metadata.config
    jax.tree.map(np.testing.assert_array_equal, got.optimizer, expected.optimizer)
    source = open_checkpoint(import_ckpt(path, tmp_path / "run"))
    assert f"left out: {name}" in caplog.text
    state = source.state(abstract_state(source.metadata.config, CPU))
    jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)


def test_a_ckpt_with_discriminators_of_spectra_is_one_without_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    path = write(ckpt(SPECTRAL), tmp_path / "x.ckpt")
    source = open_checkpoint(path)
    assert source.metadata.config.model == SPECTRAL.model
    for some in (SPECTRAL, SPECTRAL.replaced({"use_mrd": False})):
        target = abstract_state(some, CPU)
        state = source.state(target)
        assert state.params.keys() == state.optimizer.keys() == target.params.keys()
        whole = piper.read(path)
        for network, parameters in state.params.items():
            jax.tree.map(np.testing.assert_array_equal, parameters, whole.params[network])
            jax.tree.map(
                np.testing.assert_array_equal, state.optimizer[network], whole.optimizer[network]
            )


def test_an_output_that_exists_is_left_alone(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="is there already"):
        import_ckpt(saved, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_an_output_that_cannot_be_written(saved: Path, tmp_path: Path, any_width: None) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        export_ckpt(saved, tmp_path / "none" / "out.ckpt")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        import_ckpt(saved, tmp_path / "file" / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_memory_maps_the_file(saved: Path) -> None:
    """Arrays are views of the mapped file: nothing of it was copied to be read."""
    params = piper.read(saved).params["model_g"]
    assert not any(array.flags.owndata for array in params.values())
    assert all(array.dtype == np.float32 for array in params.values())
