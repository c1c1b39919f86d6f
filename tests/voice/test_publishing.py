"""Voices where clients look for them: what is written, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sherpa_onnx
import soundfile
import wyoming_piper
import yaml

from tests.runs import HOP, RATE, no_room
from tests.voice import test_voice
from tests.voice.conftest import OLD_PAPERS, Export
from vits_jax.commands import evaluate
from vits_jax.errors import RunFailed, UserError
from vits_jax.voice import Voice, cards, catalogue, companions, samples
from vits_jax.voice.catalogue import Listing
from vits_jax.voice.shelf import Shelf

KEY = "en_US-anna-tiny"
FOLDER = "en/en_US/anna/tiny"
PUBLISHED = json.loads(Path(wyoming_piper.__file__).with_name("voices.json").read_text("utf-8"))


def files_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def front_matter(page: str) -> dict[str, Any]:
    _, head, _ = page.split("---\n", 2)
    return yaml.safe_load(head)


def test_what_is_written(tree: Path) -> None:
    assert files_in(tree) == [
        "README.md",
        *(f"{FOLDER}/{name}" for name in ("MODEL_CARD", f"{KEY}.onnx", f"{KEY}.onnx.json")),
        *(f"{FOLDER}/samples/speaker_{speaker}.mp3" for speaker in (0, 1)),
        f"{FOLDER}/tokens.txt",
        "voices.json",
    ]
    config = json.loads((tree / FOLDER / f"{KEY}.onnx.json").read_text("utf-8"))
    assert config["language"] == PUBLISHED["en_US-lessac-medium"]["language"]
    assert (config["audio"]["quality"], config["dataset"]) == ("tiny", "anna")
    card = (tree / FOLDER / "MODEL_CARD").read_text("utf-8")
    for fact in ("# Model card for anna (tiny)", "en_US (English, United States)", "cc0-1.0"):
        assert fact in card
    assert "* Begun with en_US-lessac-medium\n" in card


def test_the_list_is_as_published(tree: Path) -> None:
    listed = json.loads((tree / "voices.json").read_text("utf-8"))
    (entry,) = listed.values()
    example = PUBLISHED["en_US-lessac-medium"]
    assert list(listed) == [entry["key"]] == [KEY]
    assert list(entry) == list(example)
    assert entry["language"] == example["language"]
    assert (entry["num_speakers"], entry["speaker_id_map"]) == (2, {"ann": 0, "bob": 1})
    theirs = [name.replace("lessac", "anna").replace("medium", "tiny") for name in example["files"]]
    assert list(entry["files"]) == theirs
    for name, facts in entry["files"].items():
        content = (tree / name).read_bytes()
        digest = hashlib.md5(content).hexdigest()
        assert facts == {"size_bytes": len(content), "md5_digest": digest}


def test_samples_are_speech(tree: Path) -> None:
    said = []
    for speaker in (0, 1):
        audio, rate = soundfile.read(tree / FOLDER / "samples" / f"speaker_{speaker}.mp3")
        assert rate == RATE
        assert len(audio) > 40 * HOP
        assert np.abs(audio).max() > 0.5
        said.append(audio)
    assert not np.array_equal(*said)
    assert "> Here I am. This is my voice." in (tree / "README.md").read_text("utf-8")


def test_sherpa_speaks_it(tree: Path) -> None:
    vits = sherpa_onnx.OfflineTtsVitsModelConfig(
        model=str(tree / FOLDER / f"{KEY}.onnx"),
        tokens=str(tree / FOLDER / "tokens.txt"),
        lexicon="",
    )
    tts = sherpa_onnx.OfflineTts(
        sherpa_onnx.OfflineTtsConfig(model=sherpa_onnx.OfflineTtsModelConfig(vits=vits))
    )
    how = sherpa_onnx.GenerationConfig()
    how.sid = 1
    how.phoneme_codepoints = [[ord(letter) for letter in "hello"]]
    audio = np.asarray(tts.generate("hello", how).samples)
    assert len(audio) > 5 * HOP
    assert np.abs(audio).max() > 0.01


def test_the_page_of_hugging_face(tree: Path) -> None:
    page = (tree / "README.md").read_text("utf-8")
    assert front_matter(page) == {
        "language": ["en"],
        "license": "cc0-1.0",
        "library_name": "piper",
        "pipeline_tag": "text-to-speech",
        "tags": ["piper", "vits", "onnx"],
        "base_model": ["rhasspy/piper-voices"],
        "datasets": ["me/letters"],
    }
    assert "No figures were given" in page
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert [link for link in links if "://" not in link and not (tree / link).exists()] == []


# A second voice, and what is there already


def voice(**papers: Any) -> Voice:
    one = test_voice.voice()
    return dataclasses.replace(one, dataset=dict(one.dataset) | OLD_PAPERS | papers)


def written(root: Path, listing: Listing, **papers: Any) -> dict[str, str]:
    """What is written beside the graph, whose content does not matter."""
    one = voice(**papers)
    shelf = Shelf.of(root, companions.voice_config(one, "voices"), listing)
    graph = shelf.place.graph
    plain = {graph: b"graph", graph.with_name(f"{graph.name}.json"): b"{}"}
    contents = shelf.contents(plain, None, one, "7", "float32")
    return {shelf.place.within(path): content.decode() for path, content in contents.items()}


def test_a_second_voice_in_the_tree(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "nl" / "nl_BE" / "ben" / "x_low"
    (folder / "samples").mkdir(parents=True)
    (folder / "MODEL_CARD").write_text("mine")
    (tmp_path / "README.md").write_text("my voices")
    others = {"zz": {"key": "zz"}, "nl_BE-ben-x_low": {"aliases": ["nl-ben"]}}
    (tmp_path / "voices.json").write_text(json.dumps(others))
    with caplog.at_level(logging.INFO):
        found = written(tmp_path, Listing("ben", language="nl_BE", quality="x_low"))
    assert list(found) == ["voices.json"]
    listed = json.loads(found["voices.json"])
    assert list(listed) == ["nl_BE-ben-x_low", "zz"]
    assert listed["zz"] == {"key": "zz"}
    entry = listed["nl_BE-ben-x_low"]
    assert entry["language"]["country_english"] == "Belgium"
    assert entry["aliases"] == ["nl-ben"]
    card = entry["files"]["nl/nl_BE/ben/x_low/MODEL_CARD"]
    assert card == {"size_bytes": 4, "md5_digest": hashlib.md5(b"mine").hexdigest()}
    for message in (
        "MODEL_CARD is there already: left as it is",
        "README.md is there already: left as it is",
        "README.md does not tell of nl_BE-ben-x_low yet",
        "samples is of an earlier export",
    ):
        assert message in caplog.text
    assert (tmp_path / "README.md").read_text() == "my voices"


@pytest.mark.parametrize(
    ("said", "head"),
    [
        ({}, {}),
        (
            {"licence": "https://a.org/licence", "dataset_url": "https://a.org/corpus"},
            {
                "license": "other",
                "license_link": "https://a.org/licence",
                "datasets": ["https://a.org/corpus"],
            },
        ),
        ({"base": "me/lessac"}, {"base_model": ["me/lessac"]}),
        ({"base": "https://hf.co/me/lessac/tree/main"}, {"base_model": ["me/lessac"]}),
        ({"base": "https://huggingface.co/datasets/me/checkpoints"}, {}),
        ({"base": "https://a.org/lessac.ckpt"}, {}),
    ],
)
def test_what_is_said_of_it(tmp_path: Path, caplog, said: dict[str, str], head: Any) -> None:
    found = written(tmp_path, Listing("anna", **said))
    always = {"language", "library_name", "pipeline_tag", "tags"}
    page = found["README.md"]
    assert {k: v for k, v in front_matter(page).items() if k not in always} == head
    for value in said.values():
        assert value in page
        assert value in found[f"{FOLDER}/MODEL_CARD"]
    unsaid = [flag for flag in ("licence", "dataset_url", "base") if flag not in said]
    assert f"do not say what --{unsaid[0].replace('_', '-')}" in caplog.text


def test_figures_of_the_evaluation(tree: Path, tmp_path: Path) -> None:
    graph, figures = tree / FOLDER / f"{KEY}.onnx", tmp_path / "figures.json"
    text = tmp_path / "text.txt"
    text.write_text("hello there\nhe had the hat\n")
    words = ["--text-file", str(text), "--speaker", "bob", "--metrics", "silence,wer,mel"]
    assert evaluate.main([str(graph), *words, "--json", str(figures)]) == 0
    (told,) = json.loads(figures.read_text("utf-8"))["voices"]
    found = cards.evaluated(figures, "runs/anna")
    page = written(tmp_path, Listing("anna", evaluation=found))["README.md"]
    assert "of 2 sentences (of text.txt)" in page
    (row,) = re.findall(r"\| silence \(%\) \| ([\d.]+) \[.*\] \| – \| nearest \|", page)
    assert float(row) == pytest.approx(told["metrics"]["silence"]["mean"], rel=0.01)
    assert "Not taken: " in page
    assert str(tmp_path) not in page

    two = json.loads(figures.read_text("utf-8"))
    two["voices"].append(told | {"name": "runs/anna", "metrics": {"silence": {"mean": 12.0}}})
    figures.write_text(json.dumps(two))
    assert cards.evaluated(figures, "runs/anna")["voice"]["name"] == "runs/anna"
    with pytest.raises(UserError, match=r"which is runs/ben is not clear: evaluate it alone"):
        cards.evaluated(figures, "runs/ben")


# What is refused


def test_an_mp3_of_any_rate() -> None:
    tone = 0.5 * np.sin(np.arange(20_000) * 0.1).astype(np.float32)
    for rate, written_at in ((16_000, 16_000), (20_000, 22_050), (96_000, 48_000)):
        audio, found = soundfile.read(io.BytesIO(samples.mp3(tone, rate)))
        assert found == written_at
        assert len(audio) / found == pytest.approx(len(tone) / rate, abs=0.1)


def test_samples_that_are_no_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def run(self, *_: Any) -> list[np.ndarray]:
            return [np.full((1, 1, 1, 5), np.nan, np.float32)]

    monkeypatch.setattr(samples, "session", lambda _: Session())
    config = companions.voice_config(voice(), "anna")
    with pytest.raises(RunFailed, match="sample of speaker 0 came out as numbers"):
        list(samples.samples(None, config, [[1, 2]]))


@pytest.mark.parametrize(
    ("listing", "papers", "expected"),
    [
        (Listing("a"), {"audio": {}}, "sizes of no preset: name its quality with --quality"),
        (Listing("a"), {"audio": {"quality": "so so"}}, "quality is called 'so so'"),
        (
            Listing("a", language="xx-qq"),
            {},
            "--language xx-qq: no language that is known: expected a tag such as en-us",
        ),
        (Listing("a"), {"language": None, "espeak": {}}, "its language is none, expected one such"),
        (
            Listing("a"),
            {"language": {"code": "old", "family": "en", "region": "US"}},
            "its language is old, expected one such as en_US: name it with --language",
        ),
        (
            Listing("a", samples="!!"),
            {"phoneme_type": "text"},
            "'!!': nothing in it that this voice can say",
        ),
    ],
)
def test_voices_without_a_place(tmp_path: Path, listing, papers, expected) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        written(tmp_path, listing, **papers)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--quality", "low"], "--quality is for voices that are published: name this one with"),
        (["--samples", "FILE"], "--samples is for voices that are published"),
        (["--name", "an-na"], "--name 'an-na': expected letters of a to z, digits and _"),
        (["--name", "tugão"], "--name 'tugão': expected letters of a to z, digits and _"),
        (["--name", "a", "--quality", "best"], "--quality best: expected one of demo, high, "),
        (["--name", "a", "--licence", "cc-by4"], "--licence cc-by4: no licence that Hugging Face"),
        (["--name", "a", "--license", "apache2.0"], "did you mean apache-2.0?"),
        (["--name", "a", "--dataset-url", "corpus"], "--dataset-url corpus: expected an address"),
        (["--name", "a", "--base", "FILE"], "--base FILE: a file here, which no reader has"),
        (["--name", "a", "--base", "lessac"], "--base lessac: expected a voice of Piper's"),
        (["--name", "a", "--samples", "absent"], "--samples absent: No such file or directory"),
        (["--name", "a", "--samples", "FILE"], "--samples FILE: it is empty"),
        (["--name", "a", "--evaluation", "absent"], "--evaluation absent: No such file"),
        (["--name", "a", "--evaluation", "LIST"], "expected what vits-jax evaluate --json writes"),
        (["--name", "a"], "voices.json:1: broken JSON"),
    ],
)
def test_bad_arguments(put: Export, tmp_path, monkeypatch, capsys, flags, expected) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "LIST").write_text('{"voices": [{"name": "a"}]}')
    (tmp_path / "voices.json").write_text("{")
    assert put(Path(), *flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert expected in error
    assert files_in(tmp_path) == ["FILE", "LIST", "voices.json"]


def test_a_file_is_no_directory_of_voices(put: Export, tmp_path: Path, capsys) -> None:
    (tmp_path / "FILE").write_text("")
    for output, expected in (("a.onnx", "with --name expected a directory"), ("FILE", "is not a")):
        assert put(tmp_path / output, "--name", "a") == 2
        assert expected in capsys.readouterr().err
    assert files_in(tmp_path) == ["FILE"]


def test_a_full_disk_leaves_nothing(put: Export, tmp_path: Path, capsys) -> None:
    (tmp_path / "voices.json").write_text("{}")
    with no_room(20_000):
        assert put(tmp_path, "--name", "anna") == 2
    assert f"{KEY}.onnx: cannot be written: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["voices.json"]
    assert (tmp_path / "voices.json").read_text() == "{}"


def test_places_of_the_published() -> None:
    """Every voice that there is would go where it is."""
    for key, theirs in PUBLISHED.items():
        papers = {"language": theirs["language"], "audio": {"quality": theirs["quality"]}}
        place = catalogue.place(Path(), papers, Listing(theirs["name"]))
        assert place.key == key
        assert place.within(place.graph) == next(iter(theirs["files"]))
