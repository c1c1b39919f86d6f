"""``--speaker-weights``: from words and files to rows of each speaker, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.batching.test_planning import assert_same, planner, written
from tests.runs import HOP, write_uneven
from vits_jax.data.batching.batches import validation_plan
from vits_jax.data.batching.planning import Planner
from vits_jax.data.batching.speaker_weights import (
    InAnEpoch,
    shown,
    speaker_shares,
    speakers_in_an_epoch,
)
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.errors import UserError

SIZES = [3, 7, 30]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = write_uneven(tmp_path_factory.mktemp("weights") / "data", SIZES)
    return load_dataset(directory, hop_length=HOP, min_samples=32)


def rows_of(asked: Any, dataset: Dataset, rows: np.ndarray | None = None) -> list[int]:
    rows = np.arange(len(dataset)) if rows is None else rows
    return speaker_shares(str(asked), dataset, rows).each.tolist()


def run(dataset: Dataset, asked: Any, devices: int = 1, **flags: Any) -> Planner:
    """With every utterance trained on."""
    flags = {"validation_split": 0, "num_test_examples": 0, "batch_size": 8} | flags
    return planner(dataset, devices, speaker_weights=asked and str(asked), **flags)


def test_words(dataset):
    assert rows_of("uniform", dataset) == [14, 13, 13]
    assert rows_of("sqrt", dataset) == [7, 11, 22]  # of 40: 7.0, 10.7, 22.2


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("speaker 0: 1\nspeaker 1: 2\nspeaker 2: 5\n", [5, 10, 25]),
        ("\ufeff# mine\nspeaker 2: 1.5e0\n'speaker 1': 0\nspeaker 0: .5\n", [10, 0, 30]),
        (json.dumps({"speaker 0": 3, "speaker 1": 7, "speaker 2": 30}, indent=1), SIZES),
    ],
)
def test_files(dataset, tmp_path: Path, text, rows):
    path = tmp_path / "weights"
    path.write_text(text, encoding="utf-8")
    assert rows_of(path, dataset) == rows


def test_names_are_taken_as_they_are_spelt(tmp_path: Path):
    """To YAML 007 and 7 are one number, and no is false."""
    directory = write_uneven(tmp_path / "data", [4, 4, 4], names=["007", "7", "no"])
    dataset = load_dataset(directory, hop_length=HOP, min_samples=32)
    path = tmp_path / "weights.yaml"
    path.write_text("007: 1\n7: 2\nno: 3\n")
    assert rows_of(path, dataset) == [2, 4, 6]


def test_a_speaker_without_an_utterance_to_train_on(dataset, tmp_path: Path):
    """Held out, or in the map alone: no share, whatever the rest has."""
    rows = np.flatnonzero(dataset.speaker_ids != 1)
    assert rows_of("uniform", dataset, rows) == [17, 0, 16]
    path = tmp_path / "weights.yaml"
    for line in ("", "speaker 1: 0\n"):
        path.write_text(f"speaker 0: 1\n{line}speaker 2: 2\n")
        assert rows_of(path, dataset, rows) == [11, 0, 22]
    path.write_text("speaker 0: 1\nspeaker 1: 1\nspeaker 2: 1\n")
    with pytest.raises(UserError, match="'speaker 1' has no utterance to train on"):
        rows_of(path, dataset, rows)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("speaker 0: 1\nspeaker 3: 1\n", r"config.json has no speaker 'speaker 3'"),
        ("speaker 0: 1\n", r"no weight for 2 of 3 speakers: speaker 1, speaker 2: expected one"),
        ("speaker 0: 1\nspeaker 1: -1\n", r"weights:2: got speaker 1: -1, expected .* at least 0"),
        ("speaker 0: many\n", r"weights:1: got speaker 0: many, expected"),
        ("speaker 0: .nan\n", r"weights:1: got speaker 0: .nan, expected"),
        ("speaker 0: inf\n", r"weights:1: got speaker 0: inf, expected .*finite"),
        ("speaker 0: [1]\n", r"weights:1: got speaker 0: something else, expected"),
        ("? [a]\n: 1\n", r"weights:1: got no name: 1, expected"),
        ("speaker 0: 1\nspeaker 0: 2\n", r"weights:2: 'speaker 0' is named twice"),
        ("speaker 0: 0\nspeaker 1: 0\nspeaker 2: 0\n", r"every weight is 0"),
        ("speaker 0: 1\nspeaker 1: 1\nspeaker 2: 1e-6\n", r"of 'speaker 2', 1e-06, comes to none"),
        ("- 1\n", r"expected lines of `speaker: weight`"),
        ("", r"expected lines of `speaker: weight`"),
        ("a: {\n", r"not YAML"),
        ("[" * 2000, r"not YAML"),
    ],
)
def test_files_that_are_refused(dataset, tmp_path: Path, text, told):
    path = tmp_path / "weights"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as error:
        rows_of(path, dataset)
    assert str(error.value).startswith(f"--speaker-weights {path}")
    assert "\n" not in str(error.value)


def test_words_that_are_none(dataset, tmp_path: Path):
    with pytest.raises(UserError, match="--speaker-weights unifrom: expected uniform, sqrt or a f"):
        rows_of("unifrom", dataset)
    (tmp_path / "latin").write_bytes(b"J\xf6rg: 1\n")
    with pytest.raises(UserError, match="not YAML"):
        rows_of(tmp_path / "latin", dataset)
    with pytest.raises(UserError, match="Is a directory"):
        rows_of(tmp_path, dataset)


def test_one_speaker_has_no_share(tmp_path: Path):
    directory = write_uneven(tmp_path / "data", [4])
    dataset = load_dataset(directory, hop_length=HOP, min_samples=32)
    with pytest.raises(UserError, match="config.json has one speaker"):
        rows_of("sqrt", dataset)


def test_two_names_of_one_speaker(tmp_path: Path):
    directory = write_uneven(tmp_path / "data", [4, 4])
    voice = json.loads((directory / "config.json").read_text())
    voice["speaker_id_map"] |= {"also 1": 1}
    (directory / "config.json").write_text(json.dumps(voice))
    dataset = load_dataset(directory, hop_length=HOP, min_samples=32)
    path = tmp_path / "weights.yaml"
    path.write_text("speaker 0: 1\nalso 1: 3\n")
    assert rows_of(path, dataset) == [2, 6]
    path.write_text("speaker 0: 1\nspeaker 1: 1\nalso 1: 1\n")
    with pytest.raises(UserError, match="'also 1' is speaker 1, who is named twice"):
        rows_of(path, dataset)


# In a run's plan


@pytest.mark.parametrize("batch", [{}, {"batch_size": None, "batch_frames": 2700}])
def test_a_plan_has_them_and_is_made_again(dataset, batch):
    begun = run(dataset, "uniform", num_buckets=3, **batch)
    plan, kept = begun.new(), written(begun)
    for epoch in (0, 5):
        planned = plan.epoch(epoch)
        heard = planned.rows[planned.weight == 1]
        assert np.bincount(dataset.speaker_ids[heard]).tolist() == [14, 13, 13]
    for devices in (1, 2):
        afresh = run(dataset, "uniform", devices, num_buckets=3, **batch)
        assert afresh.same_shares(kept)
        assert_same(afresh.again(kept), plan)
    assert speakers_in_an_epoch(plan, dataset, begun.parts.train) == [
        ("speaker 0", 3, 14),
        ("speaker 1", 7, 13),
        ("speaker 2", 30, 13),
    ]


def test_validation_and_test_sentences_are_not_weighed(dataset):
    flags = {"validation_split": 0.3, "num_test_examples": 4}
    begun, without = run(dataset, "uniform", **flags), run(dataset, None, **flags)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(getattr(begun.parts, name), getattr(without.parts, name))
    held_out = begun.parts.validation
    plan, too_long = validation_plan(begun.new(), dataset, held_out)
    planned = plan.epoch(0)
    heard = planned.rows[planned.weight == 1].tolist()
    assert sorted([*heard, *too_long]) == held_out.tolist()


def test_other_shares_are_other_batches_of_the_same_data(dataset, tmp_path: Path):
    path = tmp_path / "weights.yaml"
    path.write_text("speaker 0: 2\nspeaker 1: 2\nspeaker 2: 2\n")
    kept, plain = written(run(dataset, "uniform")), written(run(dataset, None))
    assert run(dataset, path).same_shares(kept)  # the same, said in another way
    assert run(dataset, path).again(kept) is not None
    path.write_text("speaker 0: 2\nspeaker 1: 1\nspeaker 2: 2\n")
    for asked, then in ((path, kept), ("sqrt", kept), (None, kept), ("uniform", plain)):
        other = run(dataset, asked)
        assert other.same_data(then)
        assert not other.same_shares(then)
        assert other.again(then) is None
    assert "speaker_rows" not in plain  # as in checkpoints of before


def test_many_speakers_are_shown_in_short():
    speakers = [InAnEpoch(f"s{i}", i, 2 * i) for i in range(1, 25)]
    line = shown(speakers)
    assert line.startswith("s1 2 rows of 1 utterances, s2 4 rows of 2 utterances, ")
    assert line.endswith("s20 40 rows of 20 utterances and 4 speakers more")
