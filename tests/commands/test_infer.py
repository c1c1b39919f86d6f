"""The command: JSON lines, or a text, to WAV files."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vits_jax
import vits_jax.voice
from tests.runs import HOP, RATE, SYMBOLS, no_room, small, write_dataset
from vits_jax.commands.infer import main
from vits_jax.commands.preprocess import main as preprocess
from vits_jax.training.loop import train

LINES = [
    {"phoneme_ids": [1, 0, 5, 0, 9, 0, 2], "speaker_id": 1, "text": "not looked at"},
    {"phoneme_ids": [1, 0, 7, 0, 8, 0, 12, 0, 2], "speaker_id": 0},
    {"phoneme_ids": [1, 0, 7, 0, 2]},
]


@pytest.fixture
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes seconds: only the tests that are about it do it again."""
    monkeypatch.setattr(vits_jax.voice, "load", _load_once)


_load_once = functools.cache(vits_jax.voice.load)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("infer")
    dataset = write_dataset(directory / "data")
    return train(small(dataset, directory / "run", max_steps=0)).run_dir


def speak(monkeypatch: pytest.MonkeyPatch, text: str, *argv: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(argv)


def lines(*entries: dict) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_lines_to_wavs(run_dir: Path, tmp_path: Path, monkeypatch):
    text = lines(*LINES[:2]) + "\n" + lines(LINES[2])
    out = tmp_path / "deep" / "out"
    assert speak(monkeypatch, text, "--checkpoint", str(run_dir), "--output-dir", str(out)) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0.wav", "1.wav", "3.wav"]
    voice = vits_jax.load(run_dir)
    for name, line in zip(("0", "1", "3"), LINES, strict=True):
        info = soundfile.info(out / f"{name}.wav")
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        written, _ = soundfile.read(out / f"{name}.wav", dtype="int16")
        assert np.abs(written).max() >= 32766  # truncated, as Piper does
        audio = voice.synthesize(line["phoneme_ids"], line.get("speaker_id"))
        np.testing.assert_allclose(written / 32767, audio / np.abs(audio).max(), atol=1e-4)


def test_scales_and_seed(run_dir: Path, tmp_path: Path, monkeypatch, loaded_once):
    checkpoint = f"--checkpoint={run_dir}"
    for name, more in {"a": [], "b": ["--seed=1"], "c": ["--length_scale", "3"]}.items():
        assert speak(
            monkeypatch, lines(LINES[0]), checkpoint, f"--output_dir={tmp_path / name}", *more
        ) == 0  # fmt: skip
    a, b, c = (soundfile.read(tmp_path / name / "0.wav")[0] for name in "abc")
    assert len(c) > 2 * len(a)
    assert not np.array_equal(a[:100], b[:100])


def test_a_text(run_dir: Path, tmp_path: Path, monkeypatch, loaded_once):
    where = ["--checkpoint", str(run_dir), "--output-dir"]
    assert main([*where, str(tmp_path / "text"), "--text", "abc", "--speaker-id", "1"]) == 0
    ids = [1, 0, *[i for letter in "abc" for i in (SYMBOLS.index(letter), 0)], 2]
    same = lines({"phoneme_ids": ids, "speaker_id": 1})
    assert speak(monkeypatch, same, *where, str(tmp_path / "ids")) == 0
    assert (tmp_path / "text" / "0.wav").read_bytes() == (tmp_path / "ids" / "0.wav").read_bytes()


@pytest.fixture(scope="module")
def one_speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one")
    dataset = write_dataset(directory / "data", utterances=6, speakers=1)
    return train(small(dataset, directory / "run", max_steps=0)).run_dir


@pytest.mark.parametrize("kind", ["ljspeech", "mycroft", "speaker_id"])
def test_lines_of_a_dataset_whose_one_speaker_has_a_name(
    one_speaker: Path, tmp_path: Path, monkeypatch, caplog, loaded_once, kind: str
):
    """As ``preprocess`` writes them; the voice knows no name."""
    corpus, prepared = tmp_path / "corpus", tmp_path / "data"
    folder = corpus / "ann" if kind == "mycroft" else corpus
    folder.mkdir(parents=True)
    file = "x-metadata.txt" if kind == "mycroft" else "metadata.csv"
    columns = {"ljspeech": "a|ann|abc.\nb|ann|dab.\n", "mycroft": "a|abc.|4\nb|dab.|4\n"}
    (folder / file).write_text(columns.get(kind, "a|abc.\nb|dab.\n"))
    for name in "ab":
        soundfile.write(folder / f"{name}.wav", np.sin(np.arange(RATE) * ord(name)), RATE)
    more = ["--speaker-id", "3"] if kind == "speaker_id" else []
    dataset_format = "mycroft" if kind == "mycroft" else "ljspeech"
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({symbol: i for i, symbol in enumerate(SYMBOLS + ".")}))
    assert preprocess([
        *(f"--input-dir={corpus}", f"--output-dir={prepared}", "--language=en-us", "--no-trim"),
        *(f"--sample-rate={RATE}", f"--dataset-format={dataset_format}", "--phoneme-type=text"),
        *(f"--phonemes-path={ids}", "--max-workers=1", *more),
    ]) == 0  # fmt: skip
    text = (prepared / "dataset.jsonl").read_text()
    named = ("speaker_id", 3) if kind == "speaker_id" else ("speaker", "ann")
    assert [json.loads(line)[named[0]] for line in text.splitlines()] == [named[1]] * 2
    text = text.replace(f"{len(SYMBOLS)}, ", "")  # this voice does not know the full stop
    out = tmp_path / "out"
    argv = ["--checkpoint", str(one_speaker), "--output-dir", str(out)]
    assert speak(monkeypatch, text, *argv) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0.wav", "1.wav"]
    assert "speakers" not in caplog.text


def test_lines_of_several_speakers_for_a_voice_of_one(
    one_speaker: Path, tmp_path: Path, monkeypatch, caplog, capsys, loaded_once
):
    argv = ["--checkpoint", str(one_speaker), "--output-dir", str(tmp_path / "out")]
    entries = [{"phoneme_ids": [1, 0, 5, 0, 2], "speaker": name} for name in ("ann", "bob")]
    assert speak(monkeypatch, lines(*entries), *argv) == 0
    assert "stdin names 2 speakers, this voice has one: it speaks every line" in caplog.text
    assert speak(monkeypatch, lines(*entries), *argv, "--speaker", "ann") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("no speaker 'ann' in this voice: it has one, leave the speaker out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (lines(LINES[0]) + "{not json}\n", "stdin:2: broken JSON"),
        (lines(LINES[0], {"ids": [1]}), "stdin:2: no key 'phoneme_ids'"),
        (lines({"text": 5}), "stdin:1: no key 'phoneme_ids' (a list of whole numbers), nor 'text'"),
        (lines({"text": "?!"}), "stdin:1: '?!': nothing in it that this voice can say"),
        (lines({"phoneme_ids": [1], "speaker": "eve"}), "stdin:1: no speaker 'eve' in this voice"),
        ("[1, 2]\n", "stdin:1: expected a JSON object, got list"),
        ("\n" + lines({"phoneme_ids": []}), "stdin:2: phoneme_ids: expected a list"),
        (lines({"phoneme_ids": [999]}), "stdin:1: phoneme id 999: expected ids from 0 to"),
        (lines({"phoneme_ids": "abc"}), "stdin:1: phoneme_ids: expected a list"),
        (lines({"phoneme_ids": [1], "speaker_id": 9}), "stdin:1: speaker id 9: expected one"),
        (lines({"phoneme_ids": [5] * 32_769}),
         "stdin:1: 32769 phoneme ids in one sentence: expected at most 32768: split it"),
        ("\n", "stdin: no lines"),
    ],
)  # fmt: skip
def test_bad_lines_leave_nothing_behind(
    run_dir, tmp_path, monkeypatch, capsys, loaded_once, text, expected
):
    out = tmp_path / "out"
    assert speak(monkeypatch, text, "--checkpoint", str(run_dir), "--output-dir", str(out)) == 2
    captured = capsys.readouterr().err.splitlines()[-1]
    assert captured.startswith(f"error: {expected}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--output-dir", "x"], "the following arguments are required: --checkpoint"),
        (["--checkpoint", "absent", "--output-dir", "x"], "absent: no such checkpoint"),
        (["--checkpoint", "absent.ckpt", "--output-dir", "x"], "absent.ckpt: no such"),
        (["--chekpoint", "x", "--output-dir", "x", "--checkpoint", "y"], "mean --checkpoint?"),
        (["--checkpoint", "RUN"], "expected one of --output-dir DIR and --output-raw"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--output-raw"], "expected one of --out"),
        (["--checkpoint", "RUN", "--output-raw", "--json"], "both write to stdout"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--speaker", "eve"], "no speaker 'eve'"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--speaker", "7"], "speaker id 7: "),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--text", "a", "--phoneme-ids", "1"],
         "--text and --phoneme-ids: expected one of the two"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--phoneme-ids", "1 x"], "whole numbers"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--phoneme-ids", ""], "not empty"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--phoneme-ids", "-3"], "phoneme id -3"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--batch-size", "0"], "at least 1"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--sentence-silence", "-1"], "at least 0"),
        (["--checkpoint", "RUN", "--output-dir", "RUN/config.yaml/x"], "is not a directory"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--noise-w", "x"], "invalid float"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--text", "a", "--seed=-1"], "seed -1"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--text", ""], "--text is empty"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--sample-rate", "22050"],
         "--sample-rate 22050: this voice was trained at 8000 Hz and speaks at no other rate"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--volume", "0.5"], "at full scale"),
        (["--model", "x.onnx", "--checkpoint", "y", "--output-dir", "OUT"], "use --checkpoint"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--output_file", "x.wav"], "--output-dir"),
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--cuda"], "--cuda true: leave it out"),
        # What is only there to be refused is nobody's spelling mistake.
        (["--checkpoint", "RUN", "--output-dir", "OUT", "--volum", "1"], "--volum: --help lists"),
    ],
)  # fmt: skip
def test_bad_flags(run_dir, tmp_path, monkeypatch, capsys, loaded_once, argv, expected):
    names = {"RUN": str(run_dir), "OUT": str(tmp_path / "out")}
    names["RUN/config.yaml/x"] = str(run_dir / "config.yaml" / "x")
    line = {"phoneme_ids": [1, 0, 5, 0, 2]}
    assert speak(monkeypatch, lines(line), *[names.get(word, word) for word in argv]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_flags_of_piper_that_ask_for_what_happens_anyway(
    run_dir, tmp_path, monkeypatch, loaded_once
):
    for name, more in {
        "a": ["--noise_w", "0.5"],
        "b": ["--noise-w-scale=0.5", "--sample_rate", str(RATE), "--volume", "1.0"],
    }.items():
        argv = ["--checkpoint", str(run_dir), "--output-dir", str(tmp_path / name), *more]
        assert speak(monkeypatch, lines(LINES[0]), *argv) == 0
    a, b = ((tmp_path / name / "0.wav").read_bytes() for name in "ab")
    assert a == b


def test_everything_that_it_can_be_given(run_dir, tmp_path, monkeypatch, caplog, loaded_once):
    """The same words as ids on the command line, as a line of text and as lines of ids."""
    ids = [1, 0, *[i for letter in "abc" for i in (SYMBOLS.index(letter), 0)], 2]
    common = ["--checkpoint", str(run_dir), "--speaker", "speaker 1", "--sample-format", "float32"]
    ways = {
        "flag": ("", ["--phoneme-ids", " ".join(map(str, ids))]),
        "text": (lines({"text": "abc"}), []),
        "name": (lines({"phoneme_ids": ids, "speaker": "speaker 1"}), ["--speaker", "0"]),
        "id": (lines({"phoneme_ids": ids, "speaker": "?", "speaker_id": 1}), []),
        "batch": (lines(*[{"phoneme_ids": ids}] * 3), ["--batch_size", "2"]),
    }
    spoken = {}
    for name, (text, more) in ways.items():
        argv = [*common, "--output-dir", str(tmp_path / name), *more]
        with caplog.at_level("INFO"):
            assert speak(monkeypatch, text, *argv) == 0
        spoken[name], rate = soundfile.read(tmp_path / name / "0.wav", dtype="float32")
        assert (rate, soundfile.info(tmp_path / name / "0.wav").subtype) == (RATE, "FLOAT")
    expected = _load_once(str(run_dir), None).synthesize(ids, "speaker 1")
    for audio in spoken.values():
        np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-5)
    assert "3 utterances, " in caplog.text
    assert "real-time factor" in caplog.text


def test_raw_samples(run_dir, tmp_path, monkeypatch, capfdbinary, loaded_once):
    common = ["--checkpoint", str(run_dir), "--phoneme-ids", "1 0 5 0 2"]
    assert speak(monkeypatch, "", *common, "--output-raw") == 0
    raw = np.frombuffer(capfdbinary.readouterr().out, np.int16)
    assert speak(monkeypatch, "", *common, "--output-dir", str(tmp_path)) == 0
    written, _ = soundfile.read(tmp_path / "0.wav", dtype="int16")
    np.testing.assert_array_equal(raw, written)
    assert speak(monkeypatch, "", *common, "--output-raw", "--sample-format=float32") == 0
    floats = np.frombuffer(capfdbinary.readouterr().out, np.float32)
    np.testing.assert_array_equal(
        floats, _load_once(str(run_dir), None).synthesize([1, 0, 5, 0, 2])
    )


def test_when_each_phoneme_is_spoken(run_dir, tmp_path, monkeypatch, capsys, caplog, loaded_once):
    text = lines({"phoneme_ids": [1, 0, 5, 0, 2], "speaker_id": 1}, {"text": "ab?"})
    argv = ["--checkpoint", str(run_dir), "--output-dir", str(tmp_path), "--json"]
    with caplog.at_level("INFO"):
        assert speak(monkeypatch, text, *argv) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "stdin:2: not in this voice's phoneme map, left out: '?' (1)" in caplog.text
    assert (first["speaker_id"], second["speaker_id"]) == (1, 0)
    assert [each["phoneme"] for each in second["phonemes"]] == ["^", "_", "a", "_", "b", "_", "$"]
    for entry in (first, second):
        info = soundfile.info(entry["file"])
        assert entry["seconds"] == pytest.approx(info.frames / RATE)
        at = 0.0
        for each in entry["phonemes"]:
            assert each["start"] == pytest.approx(at)
            assert each["seconds"] == pytest.approx(each["frames"] * HOP / RATE)
            at += each["seconds"]
        assert at == pytest.approx(entry["seconds"])


def test_a_full_disk_leaves_no_part_of_a_file(run_dir, tmp_path, monkeypatch, capsys, loaded_once):
    out = tmp_path / "deep" / "out"
    argv = ["--checkpoint", str(run_dir), "--output-dir", str(out), "--phoneme-ids", "1 0 5 0 2"]
    with no_room(100):
        assert speak(monkeypatch, "", *argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {out / '0.wav'}: cannot be written: ")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_a_map_speaks_no_text(run_dir, tmp_path, monkeypatch, capsys):
    bare = dataclasses.replace(_load_once(str(run_dir), None), dataset={})
    monkeypatch.setattr(vits_jax.voice, "load", lambda *_, **__: bare)
    argv = ["--checkpoint", str(run_dir), "--output-dir", str(tmp_path / "out")]
    assert speak(monkeypatch, "", *argv, "--text", "abc") == 2
    assert "this checkpoint has no phoneme map" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert speak(monkeypatch, lines({"phoneme_ids": [1, 0, 5, 0, 2]}), *argv) == 0
