"""Runs that earlier releases began are continued: the same batches, the same numbers.

Each directory of ``tests/fixtures/old_runs`` is a run that some release wrote and stopped in
the middle of an epoch, and what the same release made of it when it went on. They are never
written again. When the format of a run directory changes, add one before the change and one
after it, each with what is new in its name:

    python -m tests.training.test_old_runs NAME [--FLAG=VALUE ...]

Its utterances are made by `write_utterances` and its step is `tests.runs.stand_in`: small,
and every batch leaves its mark. Neither may change, or all of these runs would be of other data.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.runs import HOP, RATE, leaves, small, stand_in, write_dataset
from vits_jax.checkpoints import digests
from vits_jax.checkpoints.store import step_directories
from vits_jax.training.loop import train

RUNS = Path(__file__).parents[1] / "fixtures" / "old_runs"
STOP, END = 10, 19  # steps: in the middle of the second epoch, and of the third
MOST_BYTES = 150_000  # of all these runs together
HELD_OUT = 6  # an utterance for validation


def write_utterances(directory: Path) -> Path:
    """Of three lengths, and one that is held out and seven times as long as the others."""
    write_dataset(directory, utterances=40)
    tone = 0.3 * np.sin(2 * np.pi * 250 * np.arange(400 * HOP) / RATE)
    soundfile.write(directory / f"{HELD_OUT}.wav", tone.astype(np.float32), RATE)
    return directory


def run(here: Path, steps: int, more: dict[str, Any]) -> dict[str, Any]:
    """Begin or continue ``here/run``; where it ended, and every array of its state."""
    flags = {"num_buckets": 3, "learning_rate": 0.5, "max_steps": steps} | more
    outcome = train(small(here / "data", here / "run", **flags))
    state = {name: array.tolist() for name, array in leaves(here / "run").items()}
    return {"step": outcome.step, "epoch": outcome.epoch, "batch": outcome.batch, "state": state}


def assert_same(ended: dict[str, Any], expected: dict[str, Any]) -> None:
    """To the rounding of float32: another XLA may add in another order."""
    assert {**ended, "state": None} == {**expected, "state": None}
    for name, numbers in expected["state"].items():
        np.testing.assert_allclose(ended["state"][name], numbers, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", sorted(path.name for path in RUNS.iterdir()))
def test_a_run_of_an_earlier_release_is_continued(name, tmp_path, monkeypatch, caplog):
    stand_in(monkeypatch)
    caplog.set_level("INFO")
    shutil.copytree(RUNS / name / "run", tmp_path / "run")
    write_utterances(tmp_path / "data")
    known = json.loads((RUNS / name / "expected.json").read_text())
    assert_same(run(tmp_path, known["end"]["step"], known["flags"]), known["end"])
    assert f"continuing at step {known['stop']}" in caplog.text


def test_they_are_small():
    assert size(RUNS) < MOST_BYTES


def size(directory: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def write(name: str, more: dict[str, Any]) -> None:
    """Add a run of the release at hand to the fixtures."""
    place = RUNS / name
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        stand_in(patch)
        patch.chdir(directory)  # relative paths: nothing of this machine is kept
        write_utterances(Path("data"))
        run(Path(), STOP, more)
        for left in (Path("run/.lock"), *Path("run").glob("events.*")):
            left.unlink()
        for step in step_directories(Path("run/checkpoints")):
            forget(step, f"{Path.cwd()}/")
        shutil.copytree("run", place / "run")
        end = run(Path(), END, more)
    known = {"flags": more, "stop": STOP, "end": end}
    (place / "expected.json").write_text(json.dumps(known, indent=1) + "\n")
    print(f"{place}: {size(place)} bytes")


def forget(step: Path, here: str) -> None:
    """Take out where a step was written: Orbax only looks whether the file is there."""
    sealed = digests.read_sealed(step / digests.NAME)
    for said in step.rglob("commit_success.txt"):
        said.write_text(said.read_text().replace(here, ""))
        name = said.relative_to(step).as_posix()
        if name in sealed:
            sealed[name] = hashlib.sha256(said.read_bytes()).hexdigest()
    digests.write_sealed(step / digests.NAME, sealed)


if __name__ == "__main__":
    write(sys.argv[1], dict(flag.removeprefix("--").split("=", 1) for flag in sys.argv[2:]))
