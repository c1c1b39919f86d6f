"""What is said: the utterances that a run held out, whatever they are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.commands.preprocessing import flags
from tests.data.tones import write_corpus
from tests.runs import HOP, write_dataset
from vits_jax.commands.preprocess import main as preprocess
from vits_jax.config import Config
from vits_jax.data.manifest import load_dataset
from vits_jax.data.split import split
from vits_jax.errors import UserError
from vits_jax.evaluation.material import Part, of_corpus, of_dataset, of_text_file

OF_RUN = {"hop_length": HOP, "win_length": 64, "filter_length": 64}
HELD_OUT = Config().replaced(OF_RUN | {"validation_split": 0.4, "num_test_examples": 2})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("material") / "data")


@pytest.mark.parametrize("name", ["validation", "test"])
def test_they_are_those_that_training_holds_out(dataset: Path, name: str):
    loaded = load_dataset(dataset, hop_length=HOP, min_samples=HOP)
    parts = split(loaded.keys, 0.4, 2)
    material = of_dataset(dataset, Part(name, HELD_OUT))
    rows = getattr(parts, name)
    assert sorted(u.text for u in material.utterances) == sorted(map(loaded.text, rows))
    first = material.utterances[0]
    (row,) = [r for r in rows if loaded.name(r) == first.name]
    assert first.recording is not None
    np.testing.assert_array_equal(first.recording.audio * 32768, loaded.audio(row))
    np.testing.assert_array_equal(first.phoneme_ids, loaded.phoneme_ids(row))
    assert first.speaker == first.recording.speaker == f"speaker {loaded.speaker_ids[row]}"


def test_fewer_are_the_first_of_more(dataset: Path):
    every = [u.name for u in of_dataset(dataset, Part("all", HELD_OUT)).utterances]
    some = [u.name for u in of_dataset(dataset, Part("all", HELD_OUT, limit=3)).utterances]
    assert len(every) == 14
    assert some == every[:3]


def test_one_speaker_alone(dataset: Path):
    part = Part("all", HELD_OUT, speaker="speaker 1")
    assert {u.speaker for u in of_dataset(dataset, part).utterances} == {"speaker 1"}


def test_a_split_without_any_is_refused(dataset: Path):
    nothing = HELD_OUT.replaced({"validation_split": 0.0, "num_test_examples": 0})
    with pytest.raises(UserError, match="no utterance in --split test: --split all"):
        of_dataset(dataset, Part("test", nothing))


def test_a_corpus_has_the_splits_that_it_has_when_it_is_prepared(tmp_path: Path):
    lines = [f"clip{i}|{'ann' if i % 3 else 'bob'}|Sentence {i}." for i in range(12)]
    corpus = write_corpus(tmp_path / "corpus", lines, {f"clip{i}": 1.0 for i in range(12)})
    assert preprocess(flags(corpus, tmp_path / "data")) == 0
    for name in ("validation", "test", "all"):
        part = Part(name, HELD_OUT)
        raw, prepared = of_corpus(corpus, part), of_dataset(tmp_path / "data", part)
        assert [u.text for u in raw.utterances] == [u.text for u in prepared.utterances]
        assert [u.speaker for u in raw.utterances] == [u.speaker for u in prepared.utterances]
        assert [u.name for u in raw.utterances] == [u.name for u in prepared.utterances]
    assert all(u.phoneme_ids is None for u in of_corpus(corpus, part).utterances)


def test_a_recording_that_cannot_be_decoded_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    corpus = write_corpus(tmp_path / "corpus", ["a|One.", "b|Two."], {"a": 1.0, "b": 1.0})
    next(corpus.rglob("b.wav")).write_bytes(b"no sound")
    material = of_corpus(corpus, Part("all", HELD_OUT))
    assert [u.text for u in material.utterances] == ["One."]
    assert "left out: metadata.csv:2: undecodable" in caplog.text


def test_lines_of_a_file(tmp_path: Path):
    path = tmp_path / "sentences.txt"
    path.write_text("\ufeffOne.\n\n  Two. \nThree.\n", encoding="utf-8")
    material = of_text_file(path, 2)
    assert [(u.name, u.text) for u in material.utterances] == [
        ("line 1", "One."),
        ("line 3", "Two."),
    ]
    assert material.recordings == []
    path.write_text("\n")
    for bad in (path, tmp_path / "none.txt"):
        with pytest.raises(UserError, match="expected a sentence a line"):
            of_text_file(bad, None)
