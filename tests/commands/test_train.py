"""The command with the real step: interrupted by a signal, continued, spoken from."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vits_jax
from tests.runs import (
    RATE,
    REAL,
    REAL_ENVIRONMENT,
    assert_equal,
    flags,
    leaves,
    read_events,
    write_dataset,
)
from vits_jax.commands.train import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("train") / "data")


ENVIRONMENT = os.environ | REAL_ENVIRONMENT


def command(argv: list[str]) -> list[str]:
    return [sys.executable, "-m", "vits_jax.train", *argv]


def train_until(argv: list[str], line: str, number: signal.Signals) -> tuple[int, str]:
    """Run the command, send a signal when a line appears; exit code and what it said."""
    said = ""
    with subprocess.Popen(
        command(argv), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for text in process.stderr:
            said += text
            if text.startswith(line):
                process.send_signal(number)
    return process.returncode, said


def test_terminated_and_continued_equals_uninterrupted(dataset: Path, tmp_path: Path):
    """The same command again, bit for bit: parameters, moments, counters."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    more = {"log_every_n_steps": 1, "check_val_every_n_epoch": 1000, "checkpoint_epochs": 1000}
    more |= REAL
    code, said = train_until(flags(dataset, parts, **more), "step 1 ", signal.SIGTERM)
    assert code == 143, said
    stopped = leaves(parts)["['step']"]
    assert stopped >= 1
    end = int(stopped) + 2
    for run_dir in (parts, whole):
        argv = flags(dataset, run_dir, max_steps=end, **more)
        ended = subprocess.run(
            command(argv), env=ENVIRONMENT, check=False, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
    found = leaves(parts)
    assert found["['step']"] == found["['optimizer']['model_d']['count']"] == end
    assert_equal(found, leaves(whole))


def test_an_epoch_its_validation_and_a_voice(dataset: Path, tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    run_dir = tmp_path / "run"
    argv = flags(dataset, run_dir, max_epochs=1, limit_train_batches=1, log_every_n_steps=1, **REAL)
    assert main(argv) == 0
    said = caplog.text
    assert re.search(r"shapes to compile: 1 \(rows x phonemes x frames: 4 x \d+ x \d+\)", said)
    assert re.search(
        r"compiled the training step for \d+ x \d+ x \d+ in \d+\.\d s: it takes \d", said
    )
    assert re.search(
        r"compiled the validation step for \d+ x \d+ x \d+ in \d+\.\d s: it takes \d", said
    )
    heard = [value for event in read_events(run_dir) for value in event.summary.value]
    audio = [value for value in heard if value.HasField("audio")]
    kinds = [value.tag.split("/")[0] for value in audio if "/" in value.tag]
    assert kinds == ["recordings", "reconstructed"] * 2
    assert len(audio) == 2 + len(kinds)
    assert {value.audio.sample_rate for value in audio} == {RATE}
    numbers = {value.tag: value.simple_value for value in heard}
    names = {"loss_g", "loss_d", "mel", "kl", "dur", "fm", "gen", "disc"}
    names |= {"of_texts"}
    apart = [numbers[f"examples/{name}"] for name in ("apart", "recorded_apart", "recorded_alike")]
    assert all(number >= 0 for number in apart)
    assert {tag.removeprefix("validation/") for tag in numbers if tag.startswith("val")} == names
    assert 0 < numbers["train/mel"] < 20
    assert np.abs(vits_jax.load(run_dir).synthesize([1, 0, 5, 0, 2])).max() > 0
