"""Every number of a run lies in ``metrics.jsonl``, and where ``--logger`` says."""

from __future__ import annotations

import csv
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs import flags, no_room, read_events, stand_in, write_dataset
from vits_jax.commands import train
from vits_jax.errors import UserError
from vits_jax.training import journal
from vits_jax.training.loggers import Records


def numbers(run_dir: Path) -> dict[tuple[int, str], float]:
    """By step and name."""
    return {
        (line["step"], name): value
        for line in journal.read(run_dir)
        for name, value in line.items()
        if name not in ("step", "time", "verdict", "reason")
    }


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    stand_in(monkeypatch)
    dataset = write_dataset(tmp_path / "data")
    return flags(dataset, tmp_path / "run", log_every_n_steps=1)


def test_the_journal_has_what_tensorboard_has(argv, tmp_path: Path):
    assert train.main([*argv, "--max_epochs=2"]) == 0
    of_events = {
        (event.step, value.tag): value.simple_value
        for event in read_events(tmp_path / "run")
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    }
    assert of_events
    ours = numbers(tmp_path / "run")
    assert ours.keys() == of_events.keys()
    for key, value in of_events.items():
        assert ours[key] == pytest.approx(value, rel=1e-6)


def test_what_was_lost_and_done_again_counts_once(tmp_path: Path):
    for begin, end, value in ((0, 5, 1.0), (3, 6, 2.0)):
        records = Records(tmp_path, begin)
        for step in range(begin + 1, end + 1):
            records.scalars(step, {"x": value})
        records.close()
    lines = journal.read(tmp_path)
    assert journal.series(lines, "x") == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


def test_what_is_not_finite_is_null(tmp_path: Path):
    records = Records(tmp_path, 0)
    records.scalars(1, {"x": math.nan, "y": 1.0})
    (line,) = journal.read(tmp_path)
    assert (line["x"], line["y"]) == (None, 1.0)
    assert journal.series([line], "x") == []


def test_a_line_that_a_killed_run_left_unfinished_is_left_out(tmp_path: Path):
    records = Records(tmp_path, 0)
    records.scalars(1, {"x": 1.0})
    records.close()
    with (tmp_path / journal.NAME).open("a") as file:
        file.write('{"step": 2, "x"')
    records = Records(tmp_path, 1)
    records.scalars(2, {"x": 3.0})
    assert journal.series(journal.read(tmp_path), "x") == [(1, 1.0), (2, 3.0)]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, caplog):
    records = Records(tmp_path, 0)
    with no_room(300):
        for step in range(1, 20):
            records.scalars(step, {"x": 1.0})
    assert caplog.text.count("metrics cannot be written") == 1
    records.scalars(20, {"x": 1.0})
    steps = [step for step, _ in journal.series(journal.read(tmp_path), "x")]
    assert 1 <= len(steps) < 19
    assert steps[-1] == 20
    for line in (tmp_path / journal.NAME).read_text().splitlines():
        json.loads(line)


def test_csv(argv, tmp_path: Path):
    assert train.main([*argv, "--max_epochs=1", "--logger=csv"]) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(int(r["step"]), r["name"]): float(r["value"]) for r in rows} == numbers(
        tmp_path / "run"
    )
    assert not read_events(tmp_path / "run")


def test_a_line_an_epoch(argv, tmp_path: Path):
    """Each with all of the epoch's steps, but for the newest that are not read yet."""
    assert train.main([*argv, "--max_epochs=3"]) == 0
    assert train.main([*argv, "--max_epochs=4"]) == 0
    lines = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert len(lines) == 4
    told = [dict(part.split(" ") for part in line.split("  ")) for line in lines]
    assert all(
        {"time", "epoch", "step", "mel", "skipped", "waiting"} <= line.keys() for line in told
    )
    steps = [int(line["step"]) for line in told]
    assert steps == sorted(set(steps))
    ours = journal.history(journal.read(tmp_path / "run"))["train/mel"]
    covered = [value for step, value in ours if step <= steps[0]]
    assert float(told[0]["mel"]) == pytest.approx(np.mean(covered), abs=1e-3)


def test_none(argv, tmp_path: Path):
    assert train.main([*argv, "--max_epochs=1", "--logger=none"]) == 0
    assert numbers(tmp_path / "run")
    assert not [path for path in (tmp_path / "run").iterdir() if "event" in path.name]


def test_another_name_is_refused(argv, capsys):
    assert train.main([*argv, "--logger=comet"]) == 2
    assert "--logger comet: expected one of tensorboard, wandb" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_before_the_run(name, argv, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert train.main([*argv, f"--logger={name}"]) == 2
    assert f"pip install {name}" in capsys.readouterr().err


def test_a_service_that_fails_does_not_end_a_run(tmp_path: Path, monkeypatch, caplog):
    def fail(*arguments: Any, **named: Any) -> None:
        raise ConnectionError("no network")

    service: Any = types.ModuleType("mlflow")
    service.set_experiment = service.start_run = service.end_run = lambda *a, **n: None
    service.log_metrics = service.log_params = fail
    monkeypatch.setitem(sys.modules, "mlflow", service)
    records = Records(tmp_path, 0, "mlflow")
    records.scalars(1, {"x": 1.0})
    records.scalars(2, {"x": 1.0})
    records.close()
    assert caplog.text.count("--logger mlflow does not take it: no network") == 1
    assert len(journal.read(tmp_path)) == 2
    service.start_run = fail
    with pytest.raises(UserError, match="--logger mlflow cannot begin: no network"):
        Records(tmp_path, 0, "mlflow")


def everything(records: Records) -> None:
    records.parameters({"run/seed": 1234, "audio/name": None, "model/rates": (8, 8)})
    for step in (1, 2):
        records.scalars(step, {"train/mel": 0.5, "odd": math.nan})
        records.audio(step, "a text", np.zeros(800, np.float32), 8000)
        records.image(step, "mel/a text, with signs: ?", np.zeros((8, 9, 3), np.uint8))
        records.histogram(step, "gains", np.linspace(-1, 1, 100))
    records.close()


def test_tensorboard_takes_everything(tmp_path: Path, caplog):
    everything(Records(tmp_path, 0, "tensorboard"))
    kinds = [v.WhichOneof("value") for e in read_events(tmp_path) for v in e.summary.value]
    assert {kind: kinds.count(kind) for kind in ("audio", "image", "histo")} == dict.fromkeys(
        ("audio", "image", "histo"), 2
    )
    tags = {v.tag for e in read_events(tmp_path) for v in e.summary.value}
    assert "_hparams_/experiment" in tags
    assert "does not take it" not in caplog.text


@pytest.mark.filterwarnings("ignore")  # theirs
def test_wandb_takes_everything(tmp_path: Path, monkeypatch, caplog):
    """The package itself, writing to disk."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    everything(Records(tmp_path, 0, "wandb"))
    assert "does not take it" not in caplog.text
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.filterwarnings("ignore")  # theirs
def test_mlflow_takes_everything(tmp_path: Path, monkeypatch, caplog):
    """The package itself, writing to disk."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    everything(Records(tmp_path, 0, "mlflow"))
    assert "does not take it" not in caplog.text
    (run,) = mlflow.search_runs(experiment_names=["vits_jax"], output_format="list")
    assert run.data.metrics["train/mel"] == 0.5
