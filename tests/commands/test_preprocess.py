"""The command: what it writes, what it says, and that nothing is left half-written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.commands.preprocessing import decoding, entries, flags, load, visible
from tests.data.tones import RATE, files_below, tone, write_corpus
from vits_jax.commands.check import main as check
from vits_jax.commands.preprocess import main
from vits_jax.data.corpora import audio_files
from vits_jax.data.storage import shards


def test_what_it_writes(corpus: Path, prepared: Path):
    assert main(flags(corpus, prepared)) == 0
    config = json.loads((prepared / "config.json").read_text())
    symbols = config.pop("phoneme_id_map")
    assert symbols["_"] == [0]
    assert all(len(symbol) == 1 for symbol in symbols)
    assert config.pop("piper_version").startswith("1.")
    assert config == {
        "dataset": "corpus",
        "audio": {"sample_rate": RATE},  # the quality is training's to decide
        "espeak": {"voice": "en-us"},
        "language": {
            "code": "en_US",
            "family": "en",
            "region": "US",
            "name_native": "English",
            "name_english": "English",
            "country_english": "United States",
        },
        "inference": {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8},
        "phoneme_type": "espeak",
        "phoneme_map": {},
        "num_symbols": 256,
        "num_speakers": 2,
        "speaker_id_map": {"bob": 0, "ann": 1},  # most utterances first
    }
    first = entries(prepared)[0]
    assert {key: first[key] for key in first if not key.startswith("phoneme")} == {
        "text": "One.",
        "audio_path": str(corpus / "wavs" / "a.wav"),
        "speaker": "ann",
        "speaker_id": 1,
        "audio_norm_path": first["audio_norm_path"],
        "audio_spec_path": None,
    }
    assert "".join(first["phonemes"]) == "wˌʌn."
    assert first["phoneme_ids"] == [
        number for symbol in ["^", *first["phonemes"]] for number in (*symbols[symbol], 0)
    ] + [2]
    dataset = load(prepared)
    assert dataset.samples.tolist() == [RATE, RATE * 3 // 2, RATE * 2]
    assert dataset.speaker_ids.tolist() == [1, 0, 0]
    expected = np.rint(tone(1.0) * 32767)
    assert np.abs(dataset.audio(0) - expected).max() <= 1


@pytest.mark.parametrize("extra", [[], ["--speaker-id", "3"]])
def test_one_speaker(tmp_path: Path, prepared: Path, extra: list[str]):
    corpus = write_corpus(tmp_path / "corpus", ["a|One.", "b|Two."], {"a": 1.0, "b": 1.0})
    assert main(flags(corpus, prepared, *extra)) == 0
    config = json.loads((prepared / "config.json").read_text())
    assert (config["num_speakers"], config["speaker_id_map"]) == (1, {})
    assert [(e["speaker"], e["speaker_id"]) for e in entries(prepared)] == [
        (None, 3 if extra else None)
    ] * 2


def test_single_speaker_in_three_columns(corpus: Path, prepared: Path):
    assert main(flags(corpus, prepared, "--single_speaker")) == 0
    assert load(prepared).config.num_speakers == 1


def test_text_as_phonemes(corpus: Path, prepared: Path):
    assert main(flags(corpus, prepared, "--phoneme-type", "text")) == 0
    assert json.loads((prepared / "config.json").read_text())["phoneme_type"] == "text"
    assert entries(prepared)[1]["phonemes"] == ["T", "w", "o", "."]


def test_one_and_several_workers_write_the_same(corpus: Path, tmp_path: Path):
    for workers in ("1", "2"):
        assert main([*flags(corpus, tmp_path / workers / "x"), "--max-workers", workers]) == 0
    one, two = (files_below(tmp_path / workers / "x") for workers in ("1", "2"))
    assert one.keys() == two.keys()
    for name in ("config.json", "dataset.jsonl"):
        assert one[name].replace(b'"1"', b'"2"') == two[name].replace(b'"1"', b'"2"')
    one, two = (load(tmp_path / workers / "x") for workers in ("1", "2"))
    for row in range(3):
        np.testing.assert_array_equal(one.audio(row), two.audio(row))


def test_every_row_is_used_or_named(tmp_path: Path, prepared: Path, caplog):
    lines = [
        "good|This one is fine.",
        "gone|No file.",
        "silent|Nothing to hear.",
        "short|Too short to analyse.",
        "noise|Not audio.",
        "dots|...",
        "long|" + "far more phonemes than a short recording has frames, " * 3,
        "good|€ and ж are no phonemes; the same recording again.",
        "nothing",
    ]
    corpus = write_corpus(tmp_path / "corpus", lines, {"good": 3.0, "short": 0.02, "long": 0.5})
    soundfile.write(corpus / "wavs" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(corpus / "wavs" / "dots.wav", tone(1.0), RATE)
    (corpus / "wavs" / "noise.wav").write_bytes(b"noise" * 100)
    caplog.set_level("INFO")
    for _ in range(2):  # the second time from the store that is already there
        caplog.clear()
        assert main(flags(corpus, prepared, "--phoneme-type", "text")) == 0
        said = "\n".join(caplog.messages)
        assert "used 3 of 9 rows: 0.00 hours (7.0 seconds), 1 speaker" in said
        assert "left out 6: " in said
        for row, name, reason in [
            (2, "gone", "no audio: no such file"),
            (3, "silent", "silent: all 16000 samples"),
            (4, "short", "too short: 320 samples, at least 385"),
            (5, "noise", "undecodable: "),
            (7, "long", "more phoneme ids than frames: "),
            (9, "nothing", "one column: expected"),
        ]:
            assert f"  metadata.csv:{row}: {name}: {reason}" in said
        assert "'€' × 1" in said
        assert "'ж' × 1" in said
    assert "audio is unchanged" in said
    assert load(prepared).records.tolist() == [0, 1, 0]  # one recording, stored once


def test_text_without_phonemes(tmp_path: Path, prepared: Path, caplog):
    corpus = write_corpus(tmp_path / "corpus", ["a|...", "b|Yes."], {"a": 1.0, "b": 1.0})
    caplog.set_level("INFO")
    assert main(flags(corpus, prepared)) == 0
    assert "  metadata.csv:1: a: no phonemes in '...'" in caplog.messages


def test_a_second_run_does_only_what_changed(corpus: Path, prepared: Path, monkeypatch):
    assert main(flags(corpus, prepared)) == 0
    before = files_below(prepared)
    decoded = decoding(monkeypatch)
    assert main(flags(corpus, prepared)) == 0
    assert files_below(prepared) == before
    (corpus / "metadata.csv").write_text("a|ann|Changed.\nb|bob|Two.\nc|bob|Three.\n")
    assert main(flags(corpus, prepared)) == 0
    assert entries(prepared)[0]["text"] == "Changed."
    assert decoded == []
    assert main(flags(corpus, prepared, "--sample-rate", "8000")) == 0
    assert decoded == ["a", "b", "c"]


def test_recordings_that_stay_are_not_decoded_again(corpus: Path, prepared: Path, monkeypatch):
    assert main(flags(corpus, prepared)) == 0
    first = load(prepared)
    before = [first.audio(row) for row in range(3)]
    soundfile.write(corpus / "wavs" / "b.wav", tone(1.5, hertz=2000), RATE)
    soundfile.write(corpus / "wavs" / "d.wav", tone(0.7), RATE)
    # The first row goes, one is new, and silence is refused without a second look.
    soundfile.write(corpus / "wavs" / "e.wav", np.zeros(RATE), RATE)
    lines = ["d|bob|Four.", "b|bob|Two.", "c|bob|Three.", "e|bob|Five."]
    (corpus / "metadata.csv").write_text("\n".join(lines))
    decoded = decoding(monkeypatch)
    assert main(flags(corpus, prepared)) == 0
    assert decoded == ["d", "b", "e"]
    dataset = load(prepared)
    assert dataset.samples.tolist() == [RATE * 7 // 10, RATE * 3 // 2, RATE * 2]
    np.testing.assert_array_equal(dataset.audio(2), before[2])
    assert np.abs(dataset.audio(1) - before[1]).max() > 1000
    assert dataset.store.facts["rate"].tolist() == [RATE] * 3
    assert len(list(prepared.glob("audio-*"))) == 1
    (corpus / "metadata.csv").write_text("e|Five.\nb|Two.\n")
    assert main(flags(corpus, prepared)) == 0
    assert decoded == ["d", "b", "e"]
    np.testing.assert_array_equal(load(prepared).audio(0), dataset.audio(1))


def test_work_waits_in_the_cache_directory(
    corpus: Path, prepared: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        decode = audio_files.decode

        def interrupted(path: Path, *more):
            if path.stem == "c":
                raise KeyboardInterrupt
            return decode(path, *more)

        patch.setattr(audio_files, "decode", interrupted)
        assert main(flags(corpus, prepared, "--cache-dir", str(cache))) == 130
    assert not prepared.exists()
    parts = sorted(cache.rglob("parts/*.json"))
    assert len(parts) == 2
    parts[1].write_bytes(parts[1].read_bytes()[:-30])  # damaged: as good as not there
    decoded = decoding(monkeypatch)
    assert main(flags(corpus, prepared, "--cache-dir", str(cache))) == 0
    assert len(decoded) == 2
    assert not list(cache.iterdir())
    assert load(prepared).samples.tolist() == [RATE, RATE * 3 // 2, RATE * 2]


def test_changed_audio_of_the_same_size_and_time_is_noticed(corpus: Path, prepared: Path):
    assert main(flags(corpus, prepared)) == 0
    recording = corpus / "wavs" / "a.wav"
    stat = recording.stat()
    soundfile.write(recording, tone(1.0, hertz=2000), RATE)
    os.utime(recording, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert recording.stat().st_size == stat.st_size
    assert main(flags(corpus, prepared)) == 0
    assert np.abs(load(prepared).audio(0) - np.rint(tone(1.0, hertz=2000) * 32767)).max() <= 1
    assert len(list(prepared.glob("audio-*"))) == 1  # the old store is gone


def test_a_damaged_store_is_made_again(corpus: Path, prepared: Path):
    assert main(flags(corpus, prepared)) == 0
    before = load(prepared).audio(1)
    next(prepared.rglob("*.array_record*")).unlink()
    assert main(flags(corpus, prepared)) == 0
    np.testing.assert_array_equal(load(prepared).audio(1), before)


def test_an_error_leaves_the_last_prepared_directory_as_it_was(
    corpus: Path, prepared: Path, monkeypatch
):
    assert main(flags(corpus, prepared)) == 0
    before = files_below(prepared)
    decode = audio_files.decode

    def interrupted(path: Path, *more):
        if path.stem == "c":
            raise KeyboardInterrupt
        return decode(path, *more)

    monkeypatch.setattr(audio_files, "decode", interrupted)
    (corpus / "metadata.csv").write_text("a|ann|One.\nb|bob|Two.\nd|bob|Three.\nc|bob|Three.\n")
    soundfile.write(corpus / "wavs" / "d.wav", tone(1.0), RATE)
    soundfile.write(corpus / "wavs" / "c.wav", tone(1.0, hertz=1000), RATE)
    assert main(flags(corpus, prepared)) == 130
    assert visible(prepared) == before


def test_a_full_disk_leaves_no_new_directory(corpus: Path, tmp_path: Path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    assert main(flags(corpus, tmp_path / "new")) == 1
    assert capsys.readouterr().err == "failed: [Errno 28] No space left on device\n"
    assert visible(tmp_path / "new") == {}


def test_a_mycroft_corpus(tmp_path: Path, prepared: Path, caplog):
    caplog.set_level("INFO")
    for i, speaker in enumerate(("ann", "bob")):
        folder = tmp_path / "corpus" / "recorded" / speaker
        folder.mkdir(parents=True)
        rows = ["a.wav|One.|4", "b|Two.|4", "gone.wav|Three.|6", "a.wav", "|No name.|1", "b| |2"]
        (folder / "x-metadata.txt").write_text("\n".join(rows[: None if i else 2]) + "\n")
        for j, name in enumerate("ab"):
            audio = tone(1.0, hertz=1000 + 300 * i + 100 * j)
            soundfile.write(folder / f"{name}.wav", audio, RATE)
    (tmp_path / "corpus" / "round").symlink_to(tmp_path / "corpus")  # a circle
    mycroft = ["--dataset-format", "mycroft"]
    assert main([*flags(tmp_path / "corpus", prepared), *mycroft]) == 0
    assert load(prepared).config.speaker_id_map == {"ann": 0, "bob": 1}
    assert [(e["speaker"], e["text"]) for e in entries(prepared)] == [
        ("ann", "One."), ("ann", "Two."), ("bob", "One."), ("bob", "Two."),
    ]  # fmt: skip
    said = "\n".join(caplog.messages)
    assert "used 4 of 8 rows" in said
    for row, reason in {
        3: "gone.wav: no audio: no such file beside x-metadata.txt",
        4: "a.wav: one column: expected file|text|length",
        5: "(no id): no id: the first column is empty",
        6: "b: no text: the second column is empty",
    }.items():
        assert f"  recorded/bob/x-metadata.txt:{row}: {reason}" in said
    assert main([*flags(tmp_path / "corpus", prepared), *mycroft, "--single-speaker"]) == 0
    assert load(prepared).config.num_speakers == 1


@pytest.mark.parametrize(
    ("inside", "named"), [("", "corpus"), ("else", "../corpus"), ("corpus", ".")]
)
@pytest.mark.parametrize("dataset_format", ["ljspeech", "mycroft"])
def test_a_corpus_named_from_where_one_is(
    tmp_path: Path, monkeypatch, capsys, dataset_format: str, inside: str, named: str
):
    if dataset_format == "ljspeech":
        write_corpus(tmp_path / "corpus", ["a|ann|One."], {"a": 1.0})
    else:
        (tmp_path / "corpus" / "ann").mkdir(parents=True)
        (tmp_path / "corpus" / "ann" / "x-metadata.txt").write_text("a|One.|4\n")
        soundfile.write(tmp_path / "corpus" / "ann" / "a.wav", tone(1.0), RATE)
    (tmp_path / "else").mkdir()
    argv = [*flags(Path("corpus"), Path("data")), "--dataset-format", dataset_format]
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 0
    monkeypatch.chdir(tmp_path / inside)
    there = tmp_path / "there"
    assert main([*flags(Path(named), there), "--dataset-format", dataset_format]) == 0
    for prepared in (tmp_path / "data", there):
        assert [(e["speaker"], e["text"]) for e in entries(prepared)] == [("ann", "One.")]
        assert len(load(prepared)) == 1
    capsys.readouterr()
    assert check([named, "--json", "--dataset-format", "auto", "--max-workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["used"]) == (1, 1)


def silent_around(directory: Path, speech: Path) -> float:
    """A corpus of one spoken clip between two seconds of silence; returns the clip's seconds."""
    name = (speech / "metadata.csv").read_text("utf-8").partition("|")[0]
    audio, rate = soundfile.read(speech / "wavs" / f"{name}.wav")
    write_corpus(directory, ["a|Spoken words."])
    silence = np.zeros(2 * rate)
    soundfile.write(directory / "wavs" / "a.wav", np.concatenate([silence, audio, silence]), rate)
    return len(audio) / rate


def test_trimming_as_it_is_told(speech: Path, tmp_path: Path, prepared: Path):
    seconds = silent_around(tmp_path / "corpus", speech)

    def prepare(*more: str) -> float:
        assert main(flags(tmp_path / "corpus", prepared, *more)) == 0
        return load(prepared).seconds

    usual = prepare()
    assert prepare("--no-trim") == pytest.approx(seconds + 4, abs=0.01)
    assert prepare("--trim") == usual
    none = prepare("--keep-seconds-before-silence=0", "--keep-seconds-after-silence=0")
    assert none == pytest.approx(usual - 0.5, abs=0.001)
    more = prepare("--keep_seconds_before_silence=1.25", "--keep-seconds-after-silence", "0.5")
    assert more == pytest.approx(usual + 1.25, abs=0.001)


def test_names_in_the_configuration(corpus: Path, prepared: Path):
    assert main(flags(corpus, prepared, "--dataset-name=tale", "--audio_quality", "best")) == 0
    config = json.loads((prepared / "config.json").read_text())
    assert (config["dataset"], config["audio"]["quality"]) == ("tale", "best")


def test_the_folder_that_names_the_dataset(corpus: Path, prepared: Path, monkeypatch):
    """As it is called, however it was spelt."""
    (corpus / "more").mkdir()
    monkeypatch.chdir(corpus / "more")
    for spelt in ("..", "../", f"{corpus}/"):
        assert main(flags(spelt, prepared, "--skip-audio")) == 0
        assert json.loads((prepared / "config.json").read_text())["dataset"] == "corpus"


def test_longer_recordings_can_be_allowed_or_not(corpus: Path, prepared: Path, caplog):
    caplog.set_level("INFO")
    assert main(flags(corpus, prepared, "--max-seconds=1.7")) == 0
    assert len(load(prepared)) == 2
    assert "  metadata.csv:3: c: too long: 2.0 seconds, at most 1.7" in caplog.messages


def test_speakers_keep_their_ids_when_a_corpus_grows(corpus: Path, prepared: Path):
    assert main(flags(corpus, prepared)) == 0
    assert load(prepared).config.speaker_id_map == {"bob": 0, "ann": 1}
    lines = ["a|ann|One.", "b|bob|Two.", *(f"{n}|{s}|More {s}." for n in "abc" for s in "xy")]
    (corpus / "metadata.csv").write_text("\n".join([*lines, "c|ann|x.", "b|ann|y.", "c|ann|z."]))
    assert main(flags(corpus, prepared)) == 0
    assert load(prepared).config.speaker_id_map == {"bob": 0, "ann": 1, "x": 2, "y": 3}
    (corpus / "metadata.csv").write_text("a|y|One.\nb|x|Two.\nc|x|Three.\n")
    assert main(flags(corpus, prepared)) == 0  # another corpus: another order
    assert load(prepared).config.speaker_id_map == {"x": 0, "y": 1}


def test_training_ends_with_the_same_summary(tmp_path: Path, monkeypatch, caplog):
    from tests import runs
    from vits_jax.commands.train import main as train

    dataset = runs.write_dataset(tmp_path / "data")
    lines = (dataset / "dataset.jsonl").read_text().splitlines()
    long = json.loads(lines[3]) | {"phoneme_ids": [5] * 500}
    (dataset / "dataset.jsonl").write_text("\n".join([*lines, json.dumps(long)]))
    runs.stand_in(monkeypatch)
    caplog.set_level("INFO")
    assert train(runs.flags(dataset, tmp_path / "run", max_steps=1)) == 0
    said = caplog.messages[-3:]
    assert said[0] == "left out 1: 1 more phoneme ids than frames"
    assert said[1].startswith("  dataset.jsonl:15: 3.wav: more phoneme ids than frames: 500 ids, ")
    assert said[2].startswith("used 14 of 15 rows: 0.00 hours (")
    assert said[2].endswith("seconds), 2 speakers")


# Bad input

BAD = {
    "no corpus": ({"input-dir": "{tmp}/none"}, "none is not a directory: --input-dir"),
    "no metadata": ({"input-dir": "{tmp}/empty"}, "metadata.csv does not exist"),
    "mycroft": ({"dataset-format": "mycroft"}, "corpus holds no *-metadata.txt: a mycroft"),
    "format": ({"dataset-format": "vctk"}, "invalid choice: 'vctk'"),
    "voice": ({"language": "xx"}, "language 'xx' is no voice of espeak-ng"),
    "rate": ({"sample-rate": "0"}, "--sample-rate 0: expected at least 1"),
    "rate word": ({"sample-rate": "high"}, "invalid int value: 'high'"),
    "workers": ({"max-workers": "0"}, "--max-workers 0: expected at least 1"),
    "speaker": ({"speaker-id": "-1"}, "--speaker-id -1: expected at least 0"),
    "speakers": ({"speaker-id": "0"}, "--speaker-id 0 is for a corpus of one speaker, "),
    "phonemes": ({"phoneme-type": "klingon"}, "invalid choice: 'klingon'"),
    "casing": ({"text-casing": "title"}, "invalid choice: 'title'"),
    "map": ({"phonemes-path": "{tmp}/none.json"}, "none.json: No such file or directory"),
    "margin": ({"keep-seconds-before-silence": "-1"}, "silence -1: expected at least 0"),
    "no length": ({"max-seconds": "nan"}, "--max-seconds nan: expected above 0"),
    "kinds": ({"exclude": "clipped,ugly"}, "'ugly' is not known: use clipped, duplicate, "),
    "cache": ({"cache-dir": "{tmp}/corpus/metadata.csv"}, "--cache-dir"),
    "output": ({"output-dir": "{tmp}/corpus/metadata.csv"}, "is a file, expected a directory"),
    "typo": ({"single-speker": "1"}, "--single-speker: did you mean --single-speaker?"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    corpus: Path, prepared: Path, tmp_path: Path, capsys, case: str
):
    (tmp_path / "empty").mkdir()
    changes, message = BAD[case]
    given = [word.format(tmp=tmp_path) for k, v in changes.items() for word in (f"--{k}", v)]
    before = files_below(tmp_path)
    assert main([*flags(corpus, prepared), *given]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
    assert files_below(tmp_path) == before
    assert not prepared.exists()


def test_single_speaker_and_speaker_id(corpus: Path, prepared: Path, capsys):
    assert main(flags(corpus, prepared, "--single-speaker", "--speaker-id", "1")) == 2
    assert "--single-speaker and --speaker-id: expected one of the two" in capsys.readouterr().err


def test_no_row_can_be_used(tmp_path: Path, prepared: Path, capsys, caplog):
    corpus = write_corpus(tmp_path / "corpus", ["a|One.", "b|Two."], {"a": 0.01})
    caplog.set_level("INFO")
    assert main(flags(corpus, prepared)) == 2
    assert capsys.readouterr().err.strip() == (f"error: {corpus}: no row of 2 can be used")
    assert "  metadata.csv:2: b: no audio" in "\n".join(caplog.messages)
    assert not prepared.exists()


def test_the_text_column_taken_for_speakers(tmp_path: Path, prepared: Path, caplog):
    lines = [f"{name}|Text {name}.|Text {name}." for name in "abcd"]
    corpus = write_corpus(tmp_path / "corpus", lines, dict.fromkeys("abcd", 1.0))
    caplog.set_level("INFO")
    assert main(flags(corpus, prepared)) == 0
    assert any("4 speakers in 4 rows" in m and "--single-speaker" in m for m in caplog.messages)


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--input-dir", "--speaker-id", "--max-workers", "--phoneme-type"):
        assert flag in shown
