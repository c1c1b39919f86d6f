"""``vits-jax plan``: it says what a run then does, and leaves that run nothing to compile."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.runs import flags, stand_in, write_dataset, write_uneven
from vits_jax.checkpoints import store
from vits_jax.commands import plan, train
from vits_jax.device_memory import gigabytes
from vits_jax.errors import RunFailed
from vits_jax.training import prepared


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    stand_in(monkeypatch)
    dataset = write_dataset(tmp_path / "data", utterances=24)
    return flags(dataset, tmp_path / "run", num_buckets=2, max_epochs=3)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """JAX's, which keeps all."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path / "cache"),
        "jax_compilation_cache_max_size": -1,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def files(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_what_it_says_is_what_the_run_then_does(argv, cache, tmp_path: Path, capsys, caplog):
    figures = tmp_path / "plan.json"
    assert plan.main(argv) == 0  # puts the audio into a store, as all do that read it first
    before = files(tmp_path / "data")
    capsys.readouterr()
    assert plan.main([*argv, "--json", str(figures)]) == 0
    assert files(tmp_path / "data") == before
    assert not (tmp_path / "run").exists()
    told, said = json.loads(figures.read_text()), capsys.readouterr().out
    caplog.set_level(logging.INFO)
    assert train.main(argv) == 0
    (of_shapes,) = re.findall(
        r"shapes to compile: 2 \(rows x phonemes x frames: (.*?)\)", caplog.text
    )
    shapes = [f"{s['rows']} x {s['phonemes']} x {s['frames']}" for s in told["shapes"]]
    assert ", ".join(shapes) == of_shapes
    assert sum(shape["batches"] for shape in told["shapes"]) == told["batches_per_epoch"]
    assert f"done after {told['end']} steps: epoch 3, batch 0" in caplog.text
    assert told["end"] == 3 * told["trained_per_epoch"]
    assert told["train"] + told["validation"] + told["test"] == 24
    padding = f"padding: {100 * told['padding']:.1f} % of the frames"
    assert padding in caplog.text
    assert padding in said
    for shape in told["shapes"]:
        rows = f"{shape['rows']} rows x {shape['phonemes']} phonemes x {shape['frames']} frames"
        assert f"{rows}: {shape['batches']} batches an epoch, memory told when compiled" in said
    # The run has compiled it: now it is known.
    takes = re.findall(
        r"compiled the training step for (\d+ x .*?) in .*: it takes (.*)", caplog.text
    )
    assert plan.main([*argv, "--json", str(figures)]) == 0
    after = {
        f"{s['rows']} x {s['phonemes']} x {s['frames']}": gigabytes(s["bytes"])
        for s in json.loads(figures.read_text())["shapes"]
    }
    assert after == dict(takes)


@pytest.mark.parametrize(("weights", "rows"), [(None, [3, 20]), ("uniform", [12, 11])])
def test_it_tells_the_rows_of_each_speaker(tmp_path, monkeypatch, capsys, weights, rows):
    stand_in(monkeypatch)
    dataset, figures = write_uneven(tmp_path / "data", [3, 20]), tmp_path / "plan.json"
    all_of_it = {"validation_split": 0, "num_test_examples": 0}
    argv = flags(dataset, tmp_path / "run", **all_of_it, speaker_weights=weights, max_epochs=1)
    assert plan.main([*argv, "--json", str(figures)]) == 0
    told = json.loads(figures.read_text())["speakers"]
    assert told == [
        {"speaker": "speaker 0", "utterances": 3, "rows": rows[0]},
        {"speaker": "speaker 1", "utterances": 20, "rows": rows[1]},
    ]
    assert (
        f"speakers: speaker 0 {rows[0]} rows of 3 utterances, "
        f"speaker 1 {rows[1]} rows of 20 utterances\n"
    ) in capsys.readouterr().out


def test_a_run_that_would_continue(argv, tmp_path: Path, capsys):
    """With a damaged checkpoint, which the run will move aside: the plan leaves it where it is."""
    run_dir, figures = tmp_path / "run", tmp_path / "plan.json"
    assert train.main([*argv, "--max-steps=2"]) == 0
    assert train.main([*argv, "--max-steps=4"]) == 0
    newest = max(store.step_directories(run_dir / "checkpoints"), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(path.read_bytes()[:-1])
    before = files(run_dir)
    assert plan.main([*argv, "--json", str(figures)]) == 0
    assert files(run_dir) == before
    assert json.loads(figures.read_text())["step"] == 2
    assert "run: from step 2, epoch 0" in capsys.readouterr().out


def test_mistakes_are_those_of_train(argv, capsys):
    for wrong, told in (
        ("--batch-sise=4", "unknown flag --batch-sise: did you mean --batch-size?"),
        ("--warm-cash", "unknown flag --warm-cash: did you mean --warm-cache?"),
        ("--dataset-dir=nowhere", "nowhere"),
    ):
        assert plan.main([*argv, wrong]) == 2
        assert told in capsys.readouterr().err


def test_a_warm_cache_leaves_the_run_nothing_to_compile(argv, cache: Path, tmp_path, capsys):
    def programs() -> set[str]:
        return {path.name for path in cache.glob("*-cache")}

    def warm() -> tuple[int, int]:
        assert plan.main([*argv, "--warm-cache"]) == 0
        told = re.search(r"(\d+) were in the cache, (\d+) compiled", capsys.readouterr().out)
        assert told is not None
        return int(told[1]), int(told[2])

    _, compiled = warm()
    assert not (tmp_path / "run").exists()
    kept = programs()
    of_a_run = {"jit_step", "jit_evaluate"}
    assert {name.split("-")[0] for name in kept} >= of_a_run
    assert all((cache / f"{name}.sha256").exists() for name in kept)
    assert compiled >= len(kept)  # the stand-in's validation is one program in both shapes
    assert train.main(argv) == 0
    assert not {name for name in programs() - kept if name.split("-")[0] in of_a_run}
    assert warm() == (0, 0), "the run is at its end"
    argv.append(f"--run-dir={tmp_path / 'another'}")
    found, compiled = warm()
    assert found >= len(of_a_run)
    assert compiled == 0


def test_what_cannot_be_compiled_ends_it(argv, cache, monkeypatch, capsys):
    def make_train_step(config, mesh):
        def step(state, batch, rates):
            raise RunFailed("out of memory in the training step")

        return jax.jit(step)

    monkeypatch.setattr(prepared, "make_train_step", make_train_step)
    assert plan.main([*argv, "--warm-cache"]) == 1
    assert "failed: out of memory in the training step" in capsys.readouterr().err
