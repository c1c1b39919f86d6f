"""Corpora in object storage (`gs://`), by a stand-in that keeps the bucket in a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import soundfile
from etils.epath import backend, gpath

from tests.data.tones import HOP, MIN_SAMPLES, RATE, files_below, tone, write_corpus
from vits_jax.commands.check import main as check
from vits_jax.commands.preprocess import main
from vits_jax.data.corpora.settings import location
from vits_jax.data.manifest import load_dataset


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `gs://bucket` stands for."""
    root = tmp_path / "storage"
    root.mkdir()

    def local(path) -> str:
        return (
            str(path).replace("gs://", f"{root}/").replace(f"{root}/bucket", str(root / "bucket"))
        )

    class Storage(backend._OsPathBackend):
        def __getattribute__(self, name: str):
            method = super().__getattribute__(name)
            if name not in ("open", "exists", "isdir", "listdir", "stat"):
                return method
            return lambda path, *more: method(local(path), *more)

        def walk(self, top, **options):
            for folder, folders, names in super().walk(local(top), **options):
                yield folder.replace(f"{root}/", "gs://"), folders, names

    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Storage())
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    return root / "bucket"


def flags(corpus: str, out: Path, kind: str = "ljspeech") -> list[str]:
    where = ["--input-dir", corpus, "--output-dir", str(out), "--language=en-us"]
    return [*where, f"--sample-rate={RATE}", f"--dataset-format={kind}", "--max-workers=1"]


def test_a_corpus_in_a_bucket_gives_what_a_folder_gives(bucket: Path, tmp_path: Path, capsys):
    lines = ["a|ann|One.", "b|bob|Two.", "gone|bob|Three.", "empty|bob|Four."]
    write_corpus(bucket, lines, {"a": 1.0, "b": 1.5})
    (bucket / "wavs" / "empty.wav").touch()
    before = files_below(bucket)
    assert main(flags(str(bucket), tmp_path / "folder")) == 0
    assert main(flags("gs://bucket", tmp_path / "bucket")) == 0
    assert files_below(bucket) == before
    for name in ("folder", "bucket"):
        dataset = load_dataset(tmp_path / name, hop_length=HOP, min_samples=MIN_SAMPLES)
        assert dataset.samples.tolist() == [RATE, RATE * 3 // 2]
    written = json.loads((tmp_path / "bucket" / "dataset.jsonl").read_text().splitlines()[0])
    assert written["audio_path"] == "gs://bucket/wavs/a.wav"
    capsys.readouterr()
    assert check(["gs://bucket", "--json", "--max-workers=1", f"--sample-rate={RATE}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {item["name"]: item["kind"] for item in report["left_out"]} == {
        "gone": "no audio",
        "empty": "empty",
    }


def test_a_mycroft_corpus_in_a_bucket(bucket: Path, tmp_path: Path):
    for i, speaker in enumerate(("ann", "bob")):
        (bucket / speaker).mkdir(parents=True)
        (bucket / speaker / "x-metadata.txt").write_text("a.wav|One.|3\n")
        soundfile.write(bucket / speaker / "a.wav", tone(1.0, hertz=700 + 100 * i), RATE)
    assert main(flags("gs://bucket", tmp_path / "out", "mycroft")) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["speaker_id_map"] == {"ann": 0, "bob": 1}


def test_addresses(bucket: Path):
    assert location("a/b") == Path("a/b")
    assert str(location("gs://bucket/b")) == "gs://bucket/b"


def test_addresses_that_cannot_be_read(tmp_path: Path, monkeypatch, capsys):
    assert main(flags("ftp://a/b", tmp_path / "out")) == 2
    assert "ftp://a/b" in capsys.readouterr().err
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main(flags("gs://a/b", tmp_path / "out")) == 2
    assert "pip install gcsfs" in capsys.readouterr().err
