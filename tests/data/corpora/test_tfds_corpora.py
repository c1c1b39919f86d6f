"""Stock TFDS datasets: converted once, afterwards read without TensorFlow."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from tests.data.tones import HOP, MIN_SAMPLES, tone
from vits_jax.commands.preprocess import main
from vits_jax.data.corpora import tfds_corpora
from vits_jax.data.corpora.corpus import read_corpus
from vits_jax.data.manifest import load_dataset
from vits_jax.errors import UserError

RATES = {"ljspeech": 22050, "libritts": 24000, "vctk": 48000}


def examples(name: str) -> list[dict]:
    """Three examples in the stock features: a second of a tone each."""
    audio = [(tone(1.0, RATES[name], 800 + 100 * i) * 32767).astype(np.int64) for i in range(3)]
    texts = ["One.", "Two | and a bar.", "Three."]
    more = {
        "ljspeech": lambda i: {"text": texts[i].lower(), "text_normalized": texts[i]},
        "libritts": lambda i: {
            "text_original": "x", "text_normalized": texts[i], "speaker_id": 84 + i // 2,
            "chapter_id": 1,
        },
        "vctk": lambda i: {
            "text": texts[i], "speaker": f"p{225 + i // 2}", "gender": "F", "accent": "English",
        },
    }[name]  # fmt: skip
    return [{"id": f"{name}_{i}", "speech": audio[i], **more(i)} for i in range(3)]


def flags(data_dir: Path, out: Path, name: str) -> list[str]:
    rate = ["--sample-rate", "16000", "--language", "en-us", "--max-workers", "1"]
    return ["--tfds", name, "--input-dir", str(data_dir), "--output-dir", str(out), *rate]


def assert_prepared(out: Path, name: str) -> None:
    dataset = load_dataset(out, hop_length=HOP, min_samples=MIN_SAMPLES)
    assert dataset.samples.tolist() == [16000] * 3
    heard = {}  # TFDS shuffles what it prepares
    for i in range(3):
        heard[dataset.text(i)] = np.argmax(np.abs(np.fft.rfft(dataset.audio(i) / 32768.0)))
    assert heard == {"One.": 800, "Two   and a bar.": 900, "Three.": 1000}
    config = json.loads((out / "config.json").read_text())
    assert config["dataset"] == name
    speakers = {"ljspeech": {}, "libritts": {"84": 0, "85": 1}, "vctk": {"p225": 0, "p226": 1}}
    assert config["speaker_id_map"] == speakers[name]


@pytest.mark.parametrize("name", RATES)
def test_a_stock_dataset(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """The real builders, with examples of ours; only where TensorFlow is."""
    pytest.importorskip("tensorflow", reason="needs the extra [tensorflow]")
    import tensorflow_datasets as tfds

    stock = tfds.builder_cls(name)
    data_dir = tmp_path / "data"

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.3")
        url_infos: ClassVar = {}  # nothing is downloaded
        BUILDER_CONFIGS = stock.BUILDER_CONFIGS
        pkg_dir_path = getattr(stock, "pkg_dir_path", None)

        def _info(self):
            return stock._info(self)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((example["id"], example) for example in examples(name))

    Tiny.name = name
    config = {"config": "mic2"} if name == "vctk" else {}
    Tiny(data_dir=data_dir, **config).download_and_prepare()
    spec = "vctk:mic2" if name == "vctk" else name
    assert main(flags(data_dir, tmp_path / "out", spec)) == 0
    assert_prepared(tmp_path / "out", name)
    monkeypatch.setattr(tfds_corpora, "_open", None)  # not asked again
    assert main(flags(data_dir, tmp_path / "out", spec)) == 0
    assert_prepared(tmp_path / "out", name)


# Without TensorFlow, with a stand-in for the builder.


def prepared_by_tfds(data_dir: Path, name: str, version: str = "1.0.0") -> Path:
    folder = data_dir / name / ("mic1" if name == "vctk" else "") / version
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"name": name, "version": version}))
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Path]:
    """A builder without TensorFlow; returns a list of what was opened."""
    opened: list[Path] = []
    names = ["p225", "p226"]
    label = SimpleNamespace(int2str=lambda number: names[number])
    speech = SimpleNamespace(sample_rate=RATES[name])
    made = examples(name)
    for example in made:
        example["id"] = example["id"].encode()
        if name == "vctk":
            example["speaker"] = names.index(example["speaker"])
    features = {"speech": speech, "speaker": label, "speaker_id": SimpleNamespace()}
    splits = {"train": SimpleNamespace(num_examples=3)}
    builder = SimpleNamespace(info=SimpleNamespace(features=features, splits=splits))

    def open_(source: Path):
        opened.append(source)
        return builder

    monkeypatch.setattr(tfds_corpora, "_open", open_)
    monkeypatch.setattr(tfds_corpora, "_examples", lambda builder: iter(made))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return opened


@pytest.mark.parametrize("name", RATES)
def test_converting(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog):
    data_dir, out = tmp_path / "data", tmp_path / "out"
    prepared_by_tfds(data_dir, name, "1.0.0")
    newest = prepared_by_tfds(data_dir, name, "1.10.0")
    prepared_by_tfds(data_dir, name, "1.9.0")
    with monkeypatch.context() as patch:
        opened = stand_in(patch, name)
        for _ in range(2):
            assert main(flags(data_dir, out, name)) == 0
            assert_prepared(out, name)
    assert opened == [newest]
    assert "warning: in 1 texts, bars and line ends became spaces" in caplog.messages
    assert main(flags(data_dir, out, name)) == 0  # without TensorFlow, from what was converted
    (corpus,) = out.glob("tfds-*")
    assert len(read_corpus(corpus, "ljspeech").rows) == 3


def test_ending_early_leaves_nothing(tmp_path: Path, monkeypatch):
    prepared_by_tfds(tmp_path / "data", "ljspeech")
    stand_in(monkeypatch, "ljspeech")

    def failing(builder):
        yield examples("ljspeech")[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(tfds_corpora, "_examples", failing)
    assert main(flags(tmp_path / "data", tmp_path / "out", "ljspeech")) == 130
    assert not list((tmp_path / "out").iterdir())


def test_without_tensorflow_the_extra_is_named(tmp_path: Path, monkeypatch, capsys):
    prepared_by_tfds(tmp_path / "data", "ljspeech")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(flags(tmp_path / "data", tmp_path / "out", "ljspeech")) == 2
    assert "needs TensorFlow to read" in (said := capsys.readouterr().err)
    assert "pip install 'vits_jax[tensorflow]'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spec", "more", "message"),
    [
        ("librispeech", [], "--tfds librispeech: expected one of ljspeech, libritts, vctk"),
        ("vctk:mic2", [], "holds no prepared version: prepare it with `tfds build vctk/mic2 --"),
        ("ljspeech", ["--dataset-format=ljspeech"], "--tfds and --dataset-format: expected one"),
    ],
)
def test_bad_input(tmp_path: Path, capsys, spec: str, more: list[str], message: str):
    assert main([*flags(tmp_path / "data", tmp_path / "out", spec), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_prepared_version_is_what_tfds_prepared(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}/libritts holds no prepared version"):
        tfds_corpora.convert("libritts", None, tmp_path / "out")
