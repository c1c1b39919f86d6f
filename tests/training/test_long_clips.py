"""Runs in batches of frames, and with clips that are longer than the others."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from tests.runs import HOP, RATE, SMALL, assert_equal, leaves, small, stand_in, write_dataset
from vits_jax.data.batching import batches
from vits_jax.data.batching.buckets import Bucket
from vits_jax.errors import UserError
from vits_jax.model.synthesizer import EncodedText
from vits_jax.training.examples import SpokenExamples
from vits_jax.training.loop import train
from vits_jax.voice import speech

TRAINED, HELD_OUT, EXAMPLE = 0, 6, 4  # by the hashes of what `write_dataset` writes
# A row counts 256 frames more than it has: 4 rows of the short ones, 2 of 400 frames.
FRAMES: dict[str, Any] = {"batch_size": None, "batch_frames": 1350, "num_buckets": 3}
BATCH_SIZE: dict[str, Any] = {"batch_size": 4, "batch_frames": None, "num_buckets": 3}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    return stand_in(monkeypatch)


def dataset_with(directory: Path, *long: int) -> Path:
    """Short clips, some of them of 400 frames instead of 40 to 60."""
    write_dataset(directory, utterances=22)
    tone = 0.3 * np.sin(2 * np.pi * 250 * np.arange(400 * HOP) / RATE)
    for number in long:
        soundfile.write(directory / f"{number}.wav", tone.astype(np.float32), RATE)
    return directory


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return dataset_with(tmp_path / "data", TRAINED)


def run(dataset: Path, run_dir: Path, **more: Any) -> Any:
    return train(small(dataset, run_dir, **FRAMES | more))


def test_batches_of_frames_are_said_and_traced_once_each(dataset, tmp_path, traced, caplog):
    caplog.set_level(logging.INFO)
    run(dataset, tmp_path / "run", max_epochs=2)
    shapes = re.search(r"rows x phonemes x frames: (.*)\)", caplog.text)
    assert shapes is not None
    said = [tuple(map(int, shape.split(" x "))) for shape in shapes[1].split(", ")]
    assert said[-1] == (2, 16, 400)
    assert {rows for rows, _, _ in said[:-1]} == {4}
    training = [(rows, frames * HOP) for rows, _, frames in said]
    assert set(traced) == set(training)
    assert len(traced) <= 2 * len(training)  # by training and by validation, each shape once


def test_stopped_at_each_batch_it_goes_on_exactly(dataset, tmp_path, traced):
    whole = run(dataset, tmp_path / "whole", max_epochs=1)
    assert whole.step > 3
    for step in range(1, whole.step):
        assert run(dataset, tmp_path / "parts", max_steps=step).step == step
    again = run(dataset, tmp_path / "parts", max_epochs=1)
    assert (again.step, again.epoch, again.batch) == (whole.step, 1, 0)
    assert_equal(leaves(tmp_path / "parts"), leaves(tmp_path / "whole"))


def test_other_devices(dataset, tmp_path, traced, caplog):
    """Exactly where the rows divide by them; else from the start of the epoch."""
    run(dataset, tmp_path / "whole", max_steps=3)
    run(dataset, tmp_path / "run", max_steps=2)
    run(dataset, tmp_path / "run", max_steps=3, devices=2)
    a, b = leaves(tmp_path / "whole"), leaves(tmp_path / "run")
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)
    assert "another way" not in caplog.text
    outcome = run(dataset, tmp_path / "run", max_steps=4, devices=3)
    assert (outcome.step, outcome.epoch, outcome.batch) == (4, 0, 1)
    assert "going on at the start of epoch 0, of which 3 batches were done" in caplog.text


def test_a_release_that_would_choose_other_buckets(dataset, tmp_path, traced, monkeypatch):
    run(dataset, tmp_path / "whole", max_steps=7)
    run(dataset, tmp_path / "run", max_steps=3)
    monkeypatch.setattr(batches, "choose_buckets", lambda *lengths: (Bucket(16, 800, 4),))
    run(dataset, tmp_path / "run", max_steps=4)
    run(dataset, tmp_path / "run", max_steps=7)
    assert_equal(leaves(tmp_path / "run"), leaves(tmp_path / "whole"))


def test_validation_widens_no_batch_of_training(tmp_path, traced, caplog):
    """A long clip among those held out is left out of the losses, and named."""
    flags = BATCH_SIZE | {"max_epochs": 1}
    dataset = dataset_with(tmp_path / "data", HELD_OUT)
    run(dataset, tmp_path / "run", **flags)
    with_it = set(traced)
    assert max(frames for _, frames in with_it) == 64 * HOP
    (message,) = [r.message for r in caplog.records if "to validate on" in r.message]
    assert message == (
        "warning: 1 of 5 utterances to validate on are not in the validation losses, as they are "
        "longer than all that is trained on (16 phoneme ids, 64 frames): dataset.jsonl:7"
    )
    state = leaves(tmp_path / "run")
    # The same run, of a corpus where nobody is long.
    run(dataset_with(tmp_path / "short" / "data"), tmp_path / "other", **flags)
    assert set(traced) == with_it
    assert_equal(leaves(tmp_path / "other"), state)


def test_nothing_is_short_enough_to_validate_on(tmp_path, traced, caplog):
    caplog.set_level(logging.INFO)
    held_out = [1, 6, 11, 15, 17]
    run(dataset_with(tmp_path / "data", *held_out), tmp_path / "run", max_epochs=1)
    none = "5 of 5 utterances to validate on are not in the validation losses, which are none, "
    assert none in caplog.text
    assert "validation after step" not in caplog.text


def test_long_clips_can_be_left_out(tmp_path, traced, caplog):
    dataset = dataset_with(tmp_path / "data", TRAINED, HELD_OUT)
    run(dataset, tmp_path / "run", max_epochs=1, max_frames=399)
    assert max(frames for _, frames in traced) == 64 * HOP
    assert "left out 2: 2 too many frames" in caplog.text
    assert "dataset.jsonl:7: 6.wav: too many frames: 400, at most 399" in caplog.text
    assert "to validate on are not" not in caplog.text
    with pytest.raises(UserError, match="--max-frames was 399 and is now None"):
        run(dataset, tmp_path / "run", max_epochs=2)


def test_examples_that_do_not_fit_are_spoken_and_said_to_be_cut(tmp_path, monkeypatch, caplog):
    """Their texts have room, their speech ends where the longest of training does."""
    speak, ahead = SpokenExamples.__call__, SpokenExamples.ahead
    stand_in(monkeypatch)
    monkeypatch.setattr(SpokenExamples, "__call__", speak)
    monkeypatch.setattr(SpokenExamples, "ahead", ahead)
    shapes: list[tuple[int, ...]] = []

    def encode(parameters, ids, lengths, *_):
        shapes.append(ids.shape)
        nothing = jnp.zeros((*ids.shape, SMALL["inter_channels"]))
        return EncodedText(nothing, nothing, jnp.where(ids > 0, 6, 0))

    def decode(parameters, text, *_, n_frames):
        shapes.append((len(text.m_p), n_frames))
        return jnp.zeros((len(text.m_p), n_frames * HOP)), None

    encoder, decoder = jax.jit(encode), jax.jit(decode, static_argnames="n_frames")
    stages = speech.Stages(encoder, decoder, encoder)
    monkeypatch.setattr(speech, "make_stages", lambda *_: stages)
    dataset = write_dataset(tmp_path / "data", utterances=22)
    lines = (dataset / "dataset.jsonl").read_text().splitlines()
    ids = re.search(r'"phoneme_ids": \[(.*?)\]', lines[EXAMPLE])
    assert ids is not None
    lines[EXAMPLE] = lines[EXAMPLE].replace(ids[1], ", ".join(["7"] * 21))
    (dataset / "dataset.jsonl").write_text("\n".join(lines))
    caplog.set_level(logging.INFO)
    train(small(dataset, tmp_path / "run", max_epochs=1))
    assert set(shapes) == {(1, 24), (1, 64)}  # 21 ids fit, 126 frames do not
    assert "test examples after step" in caplog.text
    assert re.search(r": \d of 2 cut off at 0\.1 s, .*dataset.jsonl:5", caplog.text)
