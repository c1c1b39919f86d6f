"""The preflight: every row that is not used is named, and what is shown is what is there."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.planted import QUOTE, RATE, ROWS, WARNED, plant, said
from tests.data.tones import (
    HOP,
    MIN_SAMPLES,
    entry,
    files_below,
    tone,
    write_corpus,
    write_prepared,
)
from vits_jax.commands.check import main
from vits_jax.commands.preprocess import main as preprocess
from vits_jax.config import Config
from vits_jax.data.manifest import load_dataset

OF_TONES = ["--phoneme-type", "text", "--max-workers", "1", "--sample-rate", str(RATE)]


def check(capsys, directory: Path, *flags: str) -> dict:
    capsys.readouterr()
    prepared = (directory / "dataset.jsonl").exists()
    more = ["--max-workers", "1"] if prepared else OF_TONES
    assert main([str(directory), "--json", *more, *flags]) == 0
    return json.loads(capsys.readouterr().out)


def row_of(where: str) -> int:
    return int(where.rpartition(":")[2])


# Nothing is dropped in silence


@dataclass(frozen=True)
class Planted:
    corpus: Path
    faults: dict[int, str]  # by row
    report: dict  # --json
    shown: str  # on the terminal
    page: Path
    clean: Path


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    directory = tmp_path_factory.mktemp("planted")
    corpus, page, clean = (directory / name for name in ("corpus", "page.html", "clean.csv"))
    faults = plant(corpus)
    before = files_below(corpus)
    outputs = []
    for flags in (["--json", "--html", str(page)], ["--write-clean", str(clean)]):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main([str(corpus), *OF_TONES, *flags]) == 0
        outputs.append(out.getvalue())
    assert files_below(corpus) == before
    assert {path.name for path in directory.iterdir()} == {"corpus", "page.html", "clean.csv"}
    return Planted(corpus, faults, json.loads(outputs[0]), outputs[1], page, clean)


def assert_named(faults: dict[int, str], left_out: list, warned: list, notes: list[str]) -> None:
    """Each fault by its row and its reason, and nothing else."""
    named = {row_of(item["where"]): item["reason"] for item in [*left_out, *warned]}
    noted = {int(m[1]): note for note in notes if (m := re.match(r"metadata\.csv:(\d+): ", note))}
    assert len(named) == len(left_out) + len(warned)  # no row twice
    assert named.keys() | noted.keys() == faults.keys()
    for row, kind in faults.items():
        assert said(kind).search((noted if kind == "stray quote" else named)[row]), (row, kind)


def test_40_faults_in_200_rows_are_named_and_the_others_used(planted):
    faults, report = planted.faults, planted.report
    assert (len(faults), len(set(faults.values()))) == (40, 24)
    assert_named(faults, report["left_out"], report["warned"], report["notes"])
    assert report["rows"] == ROWS == report["used"] + len(report["left_out"])
    looks_wrong = sum(kind in WARNED or kind == "stray quote" for kind in faults.values())
    assert report["used"] == 160 + looks_wrong


def test_what_is_warned_of_is_left_out_on_request(planted, capsys):
    faults = planted.faults
    report = check(capsys, planted.corpus, "--exclude", "clipped,unknown_symbols")
    assert_named(faults, report["left_out"], report["warned"], report["notes"])
    assert report["used"] == 161 + 4  # the quote hurts nobody
    assert Counter(item["kind"] for item in report["warned"]) == {
        "duplicate": 2, "odd sample rate": 1, "odd speaking rate": 1,
    }  # fmt: skip
    assert report["symbols"]["unknown"] == {}


def test_preprocess_names_the_same(planted, tmp_path: Path, capsys, caplog):
    faults = planted.faults
    caplog.set_level("INFO")
    flags = [
        "--input-dir",
        str(planted.corpus),
        "--output-dir",
        str(tmp_path / "out"),
        "--language=en-us",
    ]
    assert preprocess([*flags, *OF_TONES, "--dataset-format=ljspeech", "--exclude=all"]) == 0
    lines = "\n".join(caplog.messages).splitlines()
    named = [re.fullmatch(r"  (metadata\.csv:\d+): [^:]*: (.*)", line) for line in lines]
    left_out = [{"where": match[1], "reason": match[2]} for match in named if match]
    assert_named(faults, left_out, [], [line for line in lines if QUOTE in line])
    assert f"used 161 of {ROWS} rows: 0.04 hours (161.0 seconds), 1 speaker" in lines
    dataset = load_dataset(tmp_path / "out", hop_length=HOP, min_samples=MIN_SAMPLES)
    rows = [int(dataset.text(i) == "") for i in range(len(dataset))]
    assert (len(rows), sum(rows)) == (161, 0)
    # And looking at what came of it finds nothing more.
    report = check(capsys, tmp_path / "out")
    assert (report["rows"], report["used"]) == (161, 161)
    assert report["left_out"] == []


def test_write_clean(planted):
    original = (planted.corpus / "metadata.csv").read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = [line.rstrip(b"\r") + b"\n" for line in original.split(b"\n")]
    gone = {row_of(item["where"]) for item in planted.report["left_out"]}
    kept = [line for number, line in enumerate(lines[:ROWS], 1) if number not in gone]
    assert planted.clean.read_bytes() == b"".join(kept)
    assert len(kept) == planted.report["used"]


def test_write_clean_of_a_mycroft_corpus_is_one_that_can_be_read(tmp_path: Path, capsys):
    for speaker in ("ann", "bob"):
        folder = tmp_path / "corpus" / speaker
        folder.mkdir(parents=True)
        (folder / "x-metadata.txt").write_text("a.wav|One.|3\nb|Two.|3\ngone.wav|No.|2\n")
        for name in "ab":
            audio = tone(1.0, RATE, 700 + 100 * ord(name) + len(speaker) * ord(speaker[0]))
            soundfile.write(folder / f"{name}.wav", audio, RATE)
    out = tmp_path / "corpus" / "metadata.csv"
    before = check(capsys, tmp_path / "corpus", "--write-clean", str(out))
    assert (before["rows"], before["used"]) == (6, 4)
    assert out.read_text().splitlines()[0] == "ann/a.wav|ann|One."
    after = check(capsys, tmp_path / "corpus", "--dataset-format", "ljspeech")
    assert (after["rows"], after["used"]) == (4, 4)
    assert after["speakers"] == before["speakers"]


def test_write_clean_does_not_overwrite_what_it_reads(tmp_path: Path, capsys):
    corpus = write_corpus(tmp_path / "corpus", ["a|One."], {"a": 1.0})
    before = files_below(tmp_path)
    for out in (corpus, corpus / "metadata.csv", corpus / "wavs" / ".." / "metadata.csv"):
        assert main([str(corpus), *OF_TONES, "--write-clean", str(out)]) == 2
        assert "that is what is checked" in capsys.readouterr().err
    assert files_below(tmp_path) == before


# What a report says


def test_numbers_of_a_corpus(tmp_path: Path, capsys):
    lines = [f"{n}|{s}|{t}" for n, s, t in zip("abcd", ["ann", "bob", "bob", "bob"], "wxyz")]
    corpus = write_corpus(tmp_path, lines, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    report = check(capsys, corpus, "--batch-size", "2")
    assert report["seconds"] == 10.0
    assert report["speakers"] == {
        "bob": {"utterances": 3, "seconds": 9.0},
        "ann": {"utterances": 1, "seconds": 1.0},
    }
    lengths = report["lengths"]
    assert (lengths["shortest"], lengths["median"], lengths["longest"]) == (1.0, 2.5, 4.0)
    assert sum(lengths["counts"]) == 4
    for low, high, count in zip(lengths["edges"], lengths["edges"][1:], lengths["counts"]):
        assert count == sum(low <= seconds < high for seconds in (1, 2, 3, 4))
    assert report["symbols"]["used"] == dict.fromkeys("wxyz", 1)
    assert not set("wxyz_^$") & set(report["symbols"]["unused"])
    assert {"a", "ˈ"} <= set(report["symbols"]["unused"])
    training = report["training"]
    assert training["steps_per_epoch"] == sum(b["batches"] for b in training["buckets"])
    assert training["memory_bytes"] > 1e9
    larger = check(capsys, corpus, "--batch-size", "4")["training"]
    assert larger["memory_bytes"] > training["memory_bytes"]


def test_the_plan_is_that_of_training(tmp_path: Path, capsys):
    from vits_jax.data.batching.batches import make_plan
    from vits_jax.data.split import split

    names = [f"n{i}" for i in range(40)]
    lines = [f"{name}|{'abc' * (1 + i % 9)}" for i, name in enumerate(names)]
    corpus = write_corpus(tmp_path / "corpus", lines)
    for i, name in enumerate(names):
        path = corpus / "wavs" / f"{name}.wav"
        soundfile.write(path, tone(1 + i % 13 / 4, hertz=500 + i), RATE)
    flags = ["--input-dir", str(corpus), "--output-dir", str(tmp_path / "out"), "--language=en-us"]
    assert preprocess([*flags, *OF_TONES, "--dataset-format=ljspeech"]) == 0
    dataset = load_dataset(tmp_path / "out", hop_length=HOP, min_samples=MIN_SAMPLES)
    data = Config().data
    parts = split(dataset.keys, data.validation_split, data.num_test_examples)
    plan = make_plan(
        dataset, parts.train, batch_size=4, hop_length=HOP, segment_frames=32,
        num_buckets=data.num_buckets, seed=7,
    )  # fmt: skip
    for directory in (corpus, tmp_path / "out"):
        training = check(capsys, directory, "--batch-size", "4")["training"]
        assert training["utterances"] == len(parts.train)
        assert training["steps_per_epoch"] == plan.steps_per_epoch
        assert training["padding"] == pytest.approx(plan.padding, abs=1e-4)
        assert training["phoneme_padding"] == pytest.approx(plan.phoneme_padding, abs=1e-4)
        shapes = [(b["rows"], b["phonemes"], b["frames"]) for b in training["buckets"]]
        assert shapes == [(b.rows, b.phonemes, b.frames) for b in plan.used_buckets]
        training = check(capsys, directory, "--batch-frames", "1500")["training"]
        assert (training["batch_size"], training["batch_frames"]) == (None, 1500)
        assert len({bucket["rows"] for bucket in training["buckets"]}) > 1


def test_speaking_rates_as_pipers_filter_means_them(tmp_path: Path, capsys):
    """Two interquartile ranges outside the quartiles of `statistics.quantiles`, per speaker."""
    import statistics

    random = np.random.default_rng(1)
    lengths = {s: random.integers(low, low + 5, 12) for s, low in (("ann", 8), ("bob", 14))}
    lengths["ann"][3], lengths["ann"][7], lengths["bob"][5] = 1, 29, 29
    lines, expected = [], set()
    for speaker, counts in lengths.items():
        first, _, third = statistics.quantiles(counts.tolist(), n=4)
        margin = 2 * (third - first)
        for i, count in enumerate(counts):
            name = f"{speaker}{i}"
            lines.append(f"{name}|{speaker}|{'a' * count}...")  # no punctuation is counted
            path = tmp_path / "wavs" / f"{name}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, tone(1.2, RATE, 1000 + 100 * len(lines)), RATE)
            if not first - margin <= count <= third + margin:
                expected.add(name)
    write_corpus(tmp_path, lines)
    report = check(capsys, tmp_path)
    assert {"ann3", "ann7"} <= expected
    assert {i["name"] for i in report["warned"] if i["kind"] == "odd speaking rate"} == expected


def test_frames_are_those_of_the_preset(tmp_path: Path, capsys, monkeypatch):
    """Of a second, RATE / 256 frames hold no 103 phoneme ids, and twice as many do."""
    corpus = write_corpus(tmp_path / "corpus", ["a|" + 50 * "b"], {"a": 1.0})
    assert [item["kind"] for item in check(capsys, corpus)["left_out"]] == [
        "more phoneme ids than frames"
    ]
    short_hop = Config().replaced({"hop_length": 128})
    monkeypatch.setattr("vits_jax.commands.check.preset", lambda quality: short_hop)
    assert check(capsys, corpus, "--quality", "short-hop")["left_out"] == []


def test_texts_can_be_too_long(tmp_path: Path, capsys):
    write_corpus(tmp_path, ["a|abc", "b|abcd"], {"a": 1.0, "b": 1.1})
    report = check(capsys, tmp_path, "--max-phoneme-ids", "9")
    assert [item["reason"] for item in report["left_out"]] == [
        "too many phoneme ids: 11, at most 9"
    ]


def test_recordings_can_be_too_long(tmp_path: Path, capsys):
    """And one that is held out, longer than all that is trained on, is not validated on."""
    from vits_jax.data.split import split

    lengths = {f"n{i}": 1.0 + i / 100 for i in range(30)}
    entries = []
    for i, (name, seconds) in enumerate(lengths.items()):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds, RATE, 500 + i), RATE)
        entries.append(entry(i, audio_norm_path=f"{name}.wav", audio_path=f"{name}.wav"))
    write_prepared(tmp_path, entries)
    keys = load_dataset(tmp_path, hop_length=HOP, min_samples=MIN_SAMPLES).keys
    number = int(split(keys, 0.1, 5).validation[0])
    path = tmp_path / f"n{number}.wav"
    soundfile.write(path, tone(3.0, RATE, 400), RATE)
    training = check(capsys, tmp_path)["training"]
    assert training["not_validated_on"] == 1
    assert max(bucket["frames"] for bucket in training["buckets"]) < 2 * RATE / HOP
    report = check(capsys, tmp_path, "--max-frames", "187")
    assert [(item["where"], item["reason"]) for item in report["left_out"]] == [
        (f"dataset.jsonl:{number + 1}", "too many frames: 188, at most 187")
    ]
    assert report["training"]["not_validated_on"] == 0
    assert not check(capsys, tmp_path, "--max-frames", "188")["left_out"]
    assert main([str(tmp_path), "--batch-frames", "9000"]) == 0
    shown = capsys.readouterr().out
    assert "batches within 9000 frames" in shown
    assert "1 held-out utterances are longer than all that is trained on" in shown


def test_terminal(planted):
    shown, faults = planted.shown, planted.faults
    named = re.findall(r"^  metadata\.csv:(\d+) \S.*?: (.*)$", shown, re.MULTILINE)
    quotes = {row for row, kind in faults.items() if kind == "stray quote"}
    assert {int(row) for row, _ in named} | quotes == faults.keys()
    assert "used 170 of 200 rows: 0.05 hours" in shown
    for word in ("lengths", "symbols used", "unknown, left out", "steps an epoch", "GB of memory"):
        assert word in shown


def test_markup_in_a_corpus_is_text(tmp_path: Path, capsys):
    lines = ["a|[bold]<b>One</b>[/nothing]|<script>alert(1)</script>", "[red]|two[/]", "b|x|é"]
    corpus = write_corpus(tmp_path / "[red]<i>", lines, {"a": 1.0, "b": 1.2})
    html = tmp_path / "page.html"
    assert main([str(corpus), *OF_TONES, "--html", str(html)]) == 0
    assert "[red]" in capsys.readouterr().out
    assert "<script>" not in html.read_text()
    assert "&lt;i&gt;" in html.read_text()


class Page(HTMLParser):
    """What a page refers to, and its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        names = ("src", "href", "xlink:href")
        self.addresses += [v for key, v in attrs if key in names and (tag, v) != ("link", "data:,")]
        if tag not in ("meta", "rect", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_page_needs_nothing_else_and_plays_what_looks_wrong(planted):
    faults, report, text = planted.faults, planted.report, planted.page.read_text()
    page = Page(text)
    assert page.open == []
    assert page.tags["tr"] == len(report["left_out"]) + len(report["warned"]) + 1 + len(
        report["training"]["buckets"]
    )
    assert page.tags["svg"] == 2
    assert "@import" not in text
    assert "url(" not in text
    assert all(address.startswith("data:audio/mpeg;base64,") for address in page.addresses)
    silent = ("no audio", "symlink loop", "folder", "no bytes", "no samples", "garbage", "cut off",
              "impossible rate", "not finite", "no text", "one column", "no id", "not UTF-8",
              "NUL", "stray quote")  # fmt: skip
    assert len(page.addresses) == sum(kind not in silent for kind in faults.values())
    for address in page.addresses:
        data = base64.b64decode(address.partition(",")[2])
        audio, rate = soundfile.read(io.BytesIO(data))
        assert rate == 22050
        assert 0 < len(audio) <= 13 * rate


# Prepared directories


def test_every_broken_line_of_a_prepared_directory_is_named(tmp_path: Path, capsys):
    entries = [entry(i) for i in range(8)]
    entries[1]["phoneme_ids"] = [1, 999]
    entries[2]["audio_norm_path"] = "nowhere.wav"
    entries[4]["phoneme_ids"] = [5] * 100
    del entries[5]["phoneme_ids"]
    entries[7]["audio_norm_path"] = "0.wav"
    write_prepared(tmp_path, entries)
    (tmp_path / "nowhere.wav").unlink()
    (tmp_path / "3.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "6.wav", tone(0.5, 8000), 8000)
    before = files_below(tmp_path)
    out = tmp_path.parent / f"{tmp_path.name}.jsonl"
    report = check(capsys, tmp_path, "--write-clean", str(out), "--max-phoneme-ids", "50")
    assert {row_of(item["where"]): item["reason"].partition(": ")[0] for item in report["left_out"]
            } == {2: "broken line", 3: "no audio", 4: "undecodable", 5: "too many phoneme ids",
                  6: "broken line", 7: "wrong rate"}  # fmt: skip
    assert [item["reason"] for item in report["warned"]] == [
        "duplicate: the same recording as dataset.jsonl:1"
    ]
    assert (report["rows"], report["used"]) == (8, 2)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [entries[0], entries[7]]
    assert files_below(tmp_path) == before  # nothing is packed, nothing changed


def test_a_prepared_directory_says_what_its_corpus_said(planted, tmp_path: Path, capsys):
    before = planted.report
    flags = ["--input-dir", str(planted.corpus), "--output-dir", str(tmp_path), "--language=en-us"]
    assert preprocess([*flags, *OF_TONES, "--dataset-format=ljspeech"]) == 0
    after = check(capsys, tmp_path)
    assert after["used"] == before["used"]
    for key in ("seconds", "lengths", "training"):
        assert after[key] == before[key]
    assert after["symbols"]["used"] == before["symbols"]["used"]
    assert [item["kind"] for item in after["warned"]] == [item["kind"] for item in before["warned"]]


# Bad input

BAD = {
    "no directory": (["{tmp}/none"], "none is not a directory"),
    "nothing in it": (["{tmp}/empty"], "holds no dataset.jsonl"),
    "batch": (["{tmp}/corpus", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
    "quality": (["{tmp}/corpus", "--quality", "medum"], "did you mean 'medium'?"),
    "voice": (["{tmp}/corpus", "--language", "xx"], "language 'xx' is no voice"),
    "page": (["{tmp}/corpus", "--html", "{tmp}/no/page.html"], "--html"),
    "no config": (["{tmp}/half"], "config.json does not exist"),
    "a corpus's flag": (["{tmp}/prepared", "--language", "de"], "--language is for a corpus: "),
    "frames": (["{tmp}/corpus", "--max-frames", "0"], "--max-frames 0: expected at least 1"),
    "both": (
        ["{tmp}/corpus", "--batch-size", "8", "--batch-frames", "9000"],
        "--batch-size 8 and --batch-frames 9000: expected one of the two",
    ),
    "ids": (["{tmp}/corpus", "--max-phoneme-ids", "0"], "--max-phoneme-ids 0: expected at least"),
    "typo": (["{tmp}/corpus", "--jsn"], "did you mean --json?"),
    "other format": (["{tmp}/corpus", "--dataset-format", "mycroft"], "no *-metadata.txt"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys, case: str):
    write_corpus(tmp_path / "corpus", ["a|One."], {"a": 1.0})
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    write_prepared(tmp_path / "prepared")
    (tmp_path / "half" / "dataset.jsonl").write_text("{}\n")
    argv, message = BAD[case]
    assert main([*(word.format(tmp=tmp_path) for word in argv), "--max-workers", "1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error


def test_nothing_that_can_be_used_is_still_a_report(tmp_path: Path, capsys):
    report = check(capsys, write_corpus(tmp_path, ["a|One.", "b"]))
    assert (report["used"], len(report["left_out"]), report["training"]) == (0, 2, None)
    assert main([str(tmp_path), *OF_TONES, "--html", str(tmp_path / "page.html")]) == 0
