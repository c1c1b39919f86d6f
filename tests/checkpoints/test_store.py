"""Checkpoints on disk: what they hold, which are kept, what a crash leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.cases import tiny
from vits_jax.checkpoints import digests, store
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.config import Config, ModelConfig
from vits_jax.errors import UserError
from vits_jax.model.networks import parameter_shapes
from vits_jax.state import Position
from vits_jax.training.mesh import make_mesh, replicated

EVERY = Keep(newest=-1)
METADATA = store.Metadata(
    config=Config(model=ModelConfig(hidden_channels=64, upsample_rates=(4, 8, 8))),
    position=Position(9, 3, 7),
    dataset={"num_symbols": 256, "phoneme_id_map": {"ə": [59]}, "speaker_id_map": {"ann": 0}},
    plan={"dataset": "abc", "utterances": 5},
)


def state(value: float = 0.0) -> dict[str, Any]:
    generator = {"dec.ups.0.weight_v": jnp.full((3, 4), float(value)), "emb_g.weight": jnp.ones(2)}
    return {
        "step": jnp.int32(value),
        "params": {"model_g": generator, "model_d": {"discriminators.0.bias": jnp.ones(3)}},
    }


def abstract(devices: int) -> Any:
    sharding = replicated(make_mesh(devices))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state()
    )


def save(run_dir: Path, *steps: int, keep: Keep = EVERY, epochs: int = 3, **mel: float) -> None:
    """Checkpoints at some steps, in the middle of an epoch or, with ``epochs``, at its end."""
    checkpoints = Checkpoints(run_dir, keep)
    for step in steps:
        batch = 7 if epochs == METADATA.position.epoch else 0
        at = dataclasses.replace(METADATA, position=Position(step, epochs, batch))
        checkpoints.save(step, state(step), at)
        if mel:
            checkpoints.attach(step, mel)
    checkpoints.close()


def steps(run_dir: Path) -> list[int]:
    return [int(d.name) for d in store.step_directories(run_dir / "checkpoints")]


def test_metadata_comes_back(tmp_path: Path):
    save(tmp_path, 9)
    assert store.read_metadata(store.resolve(tmp_path)) == METADATA


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_state_comes_back_on_any_number_of_devices(tmp_path: Path, devices: int):
    sharded = jax.device_put(state(5), replicated(make_mesh(4)))
    checkpoints = Checkpoints(tmp_path, Keep())
    checkpoints.save(5, sharded, METADATA)
    checkpoints.close()
    restored = store.restore(store.resolve(tmp_path), abstract(devices))
    assert jax.tree.structure(restored) == jax.tree.structure(state())
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state(5)), strict=True):
        assert len(a.sharding.device_set) == devices
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def save_generator(run_dir: Path, generator: dict[str, Any], config: Config) -> Path:
    checkpoints = Checkpoints(run_dir, Keep())
    metadata = dataclasses.replace(METADATA, config=config)
    checkpoints.save(0, {"step": jnp.int32(0), "params": {"model_g": generator}}, metadata)
    checkpoints.close()
    return store.resolve(run_dir)


def test_the_generator_alone(tmp_path: Path):
    """And without what speaking never reads."""
    shapes = parameter_shapes(tiny())["model_g"]
    stored = {
        name: jnp.full(shape, i, jnp.float32)
        for i, (name, shape) in enumerate(shapes.items(), 1)
        if not name.startswith(("enc_q.", "dp.post_", "dp.flows.1."))
    }
    assert len(stored) < len(shapes)
    step_dir = save_generator(tmp_path / "voice", stored, tiny())
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    restored = open_checkpoint(step_dir).generator(sharding)
    assert {name: array.shape for name, array in restored.items()} == shapes
    for name, array in restored.items():
        assert (array.sharding, array.dtype) == (sharding, jnp.float32)
        np.testing.assert_array_equal(array, stored.get(name, 0.0))

    del stored["dec.ups.0.weight_v"], stored["enc_p.emb.weight"]
    step_dir = save_generator(tmp_path / "part", stored, tiny())
    with pytest.raises(UserError, match=r"lacks enc_p\.emb\.weight, dec\.ups\.0\.weight_v$"):
        open_checkpoint(step_dir).generator(sharding)


def test_saving_is_not_disturbed_by_what_comes_after(tmp_path: Path):
    """The loop donates the state to the next step while it is still being written."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    large = {"step": jnp.int32(0), "x": jnp.zeros((1000, 1000))}
    checkpoints = Checkpoints(tmp_path, EVERY)
    for count in range(1, 31):
        large = step(large)
        if count % 10 == 0:
            checkpoints.save(count, large, METADATA)
    checkpoints.close()
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), large)
    target = jax.tree.map(lambda x: x.update(sharding=replicated(make_mesh(1))), target)
    for directory in store.step_directories(tmp_path / "checkpoints"):
        values = store.restore(directory, target)["x"]
        assert np.unique(values).tolist() == [int(directory.name)]


def test_what_is_kept(tmp_path: Path):
    keep = Keep(newest=2, best=2, epochs=4)
    mels = {1: 5.0, 2: 1.0, 3: 4.0, 4: 6.0, 5: None, 6: 2.0, 7: 3.0, 8: 7.0, 9: None, 10: 8.0}
    for step, mel in mels.items():  # a new run of the command for each: nothing is only in memory
        at_end = {"epochs": step} if step % 2 == 0 else {}
        save(tmp_path, step, keep=keep, **at_end, **({} if mel is None else {"mel": mel}))
    assert steps(tmp_path) == [2, 4, 6, 8, 9, 10]


def test_defaults_keep_the_newest_three_and_the_best(tmp_path: Path):
    for step, mel in enumerate([3.0, 1.0, 2.0, 4.0, 5.0, 6.0]):
        save(tmp_path, step, keep=Keep(), mel=mel)
    assert steps(tmp_path) == [1, 3, 4, 5]


def test_the_best_by_another_metric(tmp_path: Path):
    """Lower is better, below zero too; each evaluator's numbers are put beside the others'."""
    keep = Keep(newest=1, best=2, by="mcd")
    found = {1: 5.0, 2: -2.0, 3: float("nan"), 4: 1.0, 5: None, 6: 9.0}
    checkpoints = Checkpoints(tmp_path, keep)
    for step, mcd in found.items():
        checkpoints.save(step, state(step), METADATA)
        checkpoints.attach(step, {"mel": -step, "kl": 1.0})
        if mcd is not None:
            checkpoints.attach(step, {"mcd": mcd})
    checkpoints.close()
    assert steps(tmp_path) == [2, 4, 6]
    kept = store.step_directories(tmp_path / "checkpoints")
    assert store.metrics_of(kept[0]) == {"mel": -2, "kl": 1.0, "mcd": -2.0}


def test_the_best_step_of_a_run(tmp_path: Path):
    for step, kl in enumerate([3.0, 1.0, 2.0]):
        config = METADATA.config.replaced({"keep_best": "kl"})
        checkpoints = Checkpoints(tmp_path / "run", Keep.of(config.run))
        checkpoints.save(step, state(step), dataclasses.replace(METADATA, config=config))
        checkpoints.attach(step, {"kl": kl, "mel": -step})
        checkpoints.close()
    assert open_checkpoint(tmp_path / "run", best=True).where.name == "1"
    assert open_checkpoint(tmp_path / "run").where.name == "2"
    with pytest.raises(UserError, match="--best .*: expected a run directory, to choose among its"):
        open_checkpoint(tmp_path / "run" / "checkpoints" / "1", best=True)
    with pytest.raises(UserError, match="the newest step alone is read"):
        open_checkpoint("s3://bucket/run", best=True)
    save(tmp_path / "unheard", 1, 2)
    with pytest.raises(UserError, match="no step in it has a 'mel'.*without --best the latest"):
        open_checkpoint(tmp_path / "unheard", best=True)


def test_where_a_checkpoint_is(tmp_path: Path):
    save(tmp_path / "run", 2, 10, 9)
    newest = (tmp_path / "run" / "checkpoints" / "10").absolute()
    assert store.resolve(tmp_path / "run") == newest
    assert store.resolve(str(tmp_path / "run" / "checkpoints")) == newest
    assert store.resolve(tmp_path / "run" / "checkpoints" / "9").name == "9"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("absent", "absent: no such checkpoint"),
        ("empty", "empty: no checkpoint in it"),
        ("file", "file: no checkpoint in it"),
        ("run/checkpoints/7", "no such checkpoint"),
    ],
)
def test_where_none_is(tmp_path: Path, name: str, expected: str):
    save(tmp_path / "run", 1)
    (tmp_path / "voice.ckpt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=expected):
        store.resolve(tmp_path / name)


def test_a_later_format_and_a_strange_checkpoint(tmp_path: Path):
    save(tmp_path, 1)
    file = store.resolve(tmp_path) / "_CHECKPOINT_METADATA"
    written = json.loads(file.read_text())
    assert written["custom_metadata"]["format_version"] == store.FORMAT_VERSION
    assert set(written["custom_metadata"]["versions"]) >= {"vits_jax", "jax", "orbax-checkpoint"}
    written["custom_metadata"]["format_version"] = store.FORMAT_VERSION + 1
    file.write_text(json.dumps(written))
    digests.write(file.parent)
    with pytest.raises(UserError, match="format_version 2, expected at most 1: install a newer"):
        store.read_metadata(store.resolve(tmp_path))
    written["custom_metadata"] = {"other": 1}
    file.write_text(json.dumps(written))
    digests.write(file.parent)
    with pytest.raises(UserError, match="not one of vits_jax's"):
        store.read_metadata(store.resolve(tmp_path))


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from tests.checkpoints.test_store import METADATA
from vits_jax.checkpoints.saving import Checkpoints, Keep
from pathlib import Path

checkpoints = Checkpoints(Path(sys.argv[1]), Keep())
state = {f"x.{i}": jnp.full((500, 500), float(i)) for i in range(60)}
checkpoints.save(1, state, METADATA)
checkpoints.settle()
checkpoints.save(2, state, METADATA)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_saving_the_step_before_is_there(tmp_path: Path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    names = os.listdir(tmp_path / "checkpoints")
    assert len(names) == 2, "step 2 was finished before the kill, or not begun"
    assert store.resolve(tmp_path).name == "1"
    checkpoints = Checkpoints(tmp_path, Keep())
    assert checkpoints.steps() == [1]
    checkpoints.close()
    assert os.listdir(tmp_path / "checkpoints") == ["1"]


FULL = """
import resource, signal, sys
from pathlib import Path
import jax.numpy as jnp
from tests.checkpoints.test_store import METADATA
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.cli import run

def command(argv):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # writes of more fail
    checkpoints = Checkpoints(Path(argv[0]), Keep())
    checkpoints.save(1, {"x": jnp.arange(4_000_000.0)}, METADATA)
    checkpoints.close()

sys.exit(run(command))
"""


def test_a_full_disk_is_a_failed_run(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("failed: no checkpoint could be written to")
    assert "Traceback" not in ended.stderr
    assert steps(tmp_path) == []


def test_differences():
    old = Config()
    new = dataclasses.replace(old, run=dataclasses.replace(old.run, seed=1, max_steps=3))
    assert store.differences(old, new, frozenset({"max_steps"})) == ["--seed was 1234 and is now 1"]
    assert store.differences(old, old, frozenset()) == []
