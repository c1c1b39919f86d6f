"""Preparing with Apache Beam: what one machine writes is written, record for record."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.tones import HOP, MIN_SAMPLES, RATE, tone, write_corpus
from vits_jax.commands.preprocess import main
from vits_jax.data.manifest import load_dataset


def flags(corpus: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--input-dir", str(corpus), "--output-dir", str(out), "--language=en-us"),
        *(f"--sample-rate={RATE}", "--dataset-format=ljspeech", "--max-workers=1", *more),
    ]


@pytest.mark.parametrize("shards", [1, 3])
def test_the_result_is_that_of_one_machine(tmp_path: Path, monkeypatch, shards: int):
    pytest.importorskip("apache_beam", reason="needs the extra [beam]")
    import tensorflow_datasets as tfds

    config = functools.partial(tfds.download.DownloadConfig, num_shards=shards)
    monkeypatch.setattr(tfds.download, "DownloadConfig", config)
    names = [f"n{i:02d}" for i in range(30)]
    lines = [f"{name}|{'ann' if i % 3 else 'bob'}|Hello {i}." for i, name in enumerate(names)]
    corpus = write_corpus(tmp_path / "corpus", [*lines, "gone|ann|No.", "n03|bob|Again."])
    for i, name in enumerate(names):
        audio = tone(1.0 + i % 7 / 10, hertz=400 + 50 * i)
        soundfile.write(corpus / "wavs" / f"{name}.wav", audio * (i != 5), RATE)
    assert main(flags(corpus, tmp_path / "one")) == 0
    assert main(flags(corpus, tmp_path / "many", "--beam-runner=DirectRunner")) == 0
    one, many = (
        load_dataset(tmp_path / name, hop_length=HOP, min_samples=MIN_SAMPLES)
        for name in ("one", "many")
    )
    assert len(list(many.store.directory.rglob("*.array_record*"))) == shards
    for name in ("dataset.jsonl", "config.json"):
        written = [(tmp_path / where / name).read_text() for where in ("one", "many")]
        assert written[0].replace('"one"', '"many"') == written[1]
    assert one.store.directory.name == many.store.directory.name
    assert one.store.outcomes == many.store.outcomes
    assert len(many.store.samples) == 29
    for array in ("samples", "facts", "digests"):
        a, b = getattr(one.store, array), getattr(many.store, array)
        assert a.tobytes() == b.tobytes()
    for record in range(29):
        np.testing.assert_array_equal(one.store.audio(record), many.store.audio(record))
    leftover = [path for path in (tmp_path / "many").iterdir() if path.name[0] == "."]
    assert leftover == []


def test_nothing_that_can_be_used(tmp_path: Path, capsys):
    pytest.importorskip("apache_beam", reason="needs the extra [beam]")
    corpus = write_corpus(tmp_path / "corpus", ["a|One."], {"a": 0.01})
    assert main(flags(corpus, tmp_path / "out", "--beam-runner=direct")) == 2
    assert "no row of 1 can be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_runner_that_is_none(tmp_path: Path, capsys):
    pytest.importorskip("apache_beam", reason="needs the extra [beam]")
    corpus = write_corpus(tmp_path / "corpus", ["a|One."], {"a": 1.0})
    assert main(flags(corpus, tmp_path / "out", "--beam-runner=NoRunner")) == 2
    assert "error: --beam-runner NoRunner: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_without_a_runner(tmp_path: Path, capsys):
    assert main(flags(tmp_path, tmp_path / "out", "--beam-options=--x=1")) == 2
    assert "--beam-options goes with --beam-runner" in capsys.readouterr().err


def test_without_beam_the_extra_is_named(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(flags(tmp_path, tmp_path / "out", "--beam-runner=DirectRunner")) == 2
    assert "pip install 'vits_jax[beam]'" in capsys.readouterr().err
