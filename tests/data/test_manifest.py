"""Prepared directories: everything broken is refused in one line that says where."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.tones import (
    HOP,
    MIN_SAMPLES,
    RATE,
    config,
    entry,
    files_below,
    recorded,
    tone,
    write_prepared,
    write_store,
)
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.data.storage import building
from vits_jax.errors import UserError


def load(directory: Path, **options) -> Dataset:
    return load_dataset(directory, hop_length=HOP, min_samples=MIN_SAMPLES, **options)


def refused(directory: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        load(directory, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_columns(tmp_path: Path):
    entries = [entry(i, speaker_id=i % 2, speaker="ab"[i % 2]) for i in range(5)]
    entries[3]["phoneme_ids"] = [1, 255, 2]
    dataset = load(write_prepared(tmp_path, entries, config(num_speakers=2)))
    assert len(dataset) == 5
    assert [dataset.phoneme_ids(i).tolist() for i in range(5)] == [
        item["phoneme_ids"] for item in entries
    ]
    assert dataset.ids.dtype == np.uint16
    np.testing.assert_array_equal(dataset.speaker_ids, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(dataset.samples, [RATE // 2] * 5)
    np.testing.assert_array_equal(dataset.lines, [1, 2, 3, 4, 5])
    assert dataset.seconds == 2.5
    assert dataset.text(3) == "text 3"
    expected = np.rint(tone(0.5) * 32767)
    assert np.abs(dataset.audio(3) - expected).max() <= 1


def test_ids_beyond_16_bits(tmp_path: Path):
    entries = [entry(0, phoneme_ids=[1, 70_000, 2])]
    dataset = load(write_prepared(tmp_path, entries, config(num_symbols=70_001)))
    assert dataset.phoneme_ids(0).tolist() == [1, 70_000, 2]


def test_bom_blank_lines_and_crlf(tmp_path: Path):
    write_prepared(tmp_path)
    for name in ("config.json", "dataset.jsonl"):
        text = (tmp_path / name).read_bytes().replace(b"\n", b"\r\n\r\n")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text)
    dataset = load(tmp_path)
    np.testing.assert_array_equal(dataset.lines, [1, 3, 5])
    assert [dataset.text(i) for i in range(3)] == ["text 0", "text 1", "text 2"]


def test_speaker_ids_are_not_looked_at_with_one_speaker(tmp_path: Path):
    dataset = load(write_prepared(tmp_path, [entry(0, speaker_id=7)]))
    assert dataset.speaker_ids.tolist() == [0]


# Files as a whole


def test_missing_directory(tmp_path: Path):
    assert refused(tmp_path / "no") == (
        f"{tmp_path / 'no'} is not a directory: --dataset-dir names what preprocess wrote"
    )


@pytest.mark.parametrize("name", ["config.json", "dataset.jsonl"])
def test_missing_file(tmp_path: Path, name: str):
    write_prepared(tmp_path)
    (tmp_path / name).unlink()
    assert refused(tmp_path) == f"{tmp_path / name} does not exist: preprocess writes it"


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_no_utterance(tmp_path: Path, content: str):
    write_prepared(tmp_path)
    (tmp_path / "dataset.jsonl").write_text(content)
    assert refused(tmp_path) == f"{tmp_path / 'dataset.jsonl'}: no utterance in it"


def test_broken_json_names_the_line(tmp_path: Path):
    write_prepared(tmp_path)
    lines = (tmp_path / "dataset.jsonl").read_text().splitlines()
    lines[1] = lines[1][:-3]
    (tmp_path / "dataset.jsonl").write_text("\n".join(lines))
    assert refused(tmp_path).startswith(f"{tmp_path / 'dataset.jsonl'}:2: broken JSON: ")
    (tmp_path / "config.json").write_text('{"audio": {\n  "sample_rate": 22050,\n}}')
    assert refused(tmp_path).startswith(f"{tmp_path / 'config.json'}:3: broken JSON: ")


@pytest.mark.parametrize("name", ["config.json", "dataset.jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xff", "not UTF-8 (byte 1)"),
        (b"[1]", "expected a JSON object {…}, got list"),
        (b"[" * 100_000, "broken JSON: nested too deep"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, name: str, content: bytes, message: str):
    write_prepared(tmp_path)
    (tmp_path / name).write_bytes(content)
    line = ":1" if name == "dataset.jsonl" else ""
    assert refused(tmp_path) == f"{tmp_path / name}{line}: {message}"


# config.json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio": None}, "no key 'audio' with a 'sample_rate' in it"),
        ({"audio": {}}, "no key 'sample_rate' (a whole number above 0)"),
        ({"audio": {"sample_rate": "x"}}, "audio.sample_rate is 'x', expected a whole number"),
        ({"num_symbols": 0}, "num_symbols is 0, expected a whole number above 0"),
        ({"num_symbols": 2.5}, "num_symbols is 2.5, expected a whole number above 0"),
        ({"num_speakers": True}, "num_speakers is True, expected a whole number above 0"),
        ({"speaker_id_map": {"a": "0"}}, "speaker_id_map should give each speaker's name"),
        ({"speaker_id_map": {"a": 1}}, "speaker_id_map gives 'a' the id 1, num_speakers is 1"),
    ],
)
def test_config(tmp_path: Path, changes: dict, message: str):
    write_prepared(tmp_path, voice=config(**changes))
    assert refused(tmp_path).startswith(f"{tmp_path / 'config.json'}: {message}")


@pytest.mark.parametrize("key", ["audio", "num_symbols", "num_speakers"])
def test_config_lacks_a_key(tmp_path: Path, key: str):
    voice = config()
    del voice[key]
    write_prepared(tmp_path, voice=voice)
    assert refused(tmp_path).startswith(f"{tmp_path / 'config.json'}: no key '{key}'")


# dataset.jsonl

IDS = "is not a whole number from 0 to 255 (num_symbols in"
SPEAKERS = "is not a whole number from 0 to 1 (num_speakers in"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phoneme_ids": []}, "phoneme_ids is empty"),
        ({"phoneme_ids": "1 2"}, "phoneme_ids is '1 2', expected a list of whole numbers"),
        ({"phoneme_ids": [1, 256, 2]}, f"phoneme id 256 {IDS}"),
        ({"phoneme_ids": [1, -1, 2]}, f"phoneme id -1 {IDS}"),
        ({"phoneme_ids": [1, 2.0]}, f"phoneme id 2.0 {IDS}"),
        ({"phoneme_ids": [1, True]}, f"phoneme id True {IDS}"),
        ({"phoneme_ids": [1, None]}, f"phoneme id None {IDS}"),
        ({"audio_norm_path": None}, "audio_norm_path is None, expected the name of its audio"),
        ({"audio_norm_path": "no.wav"}, "audio_norm_path 'no.wav' does not exist"),
        ({"audio_norm_path": "x" * 5000}, "audio_norm_path 'xxx"),
        ({"audio_norm_path": "a\0b"}, "audio_norm_path 'a\\x00b' does not exist"),
        ({"speaker_id": None}, "no speaker_id, but num_speakers is 2 in"),
        ({"speaker_id": 2}, f"speaker_id 2 {SPEAKERS}"),
        ({"speaker_id": -1}, f"speaker_id -1 {SPEAKERS}"),
        ({"speaker_id": "0"}, f"speaker_id '0' {SPEAKERS}"),
        ({"speaker_id": False}, f"speaker_id False {SPEAKERS}"),
    ],
)
def test_lines(tmp_path: Path, changes: dict, message: str):
    entries = [entry(i, speaker_id=0) for i in range(3)]
    write_prepared(tmp_path, entries, config(num_speakers=2))
    entries[1] |= changes
    write_prepared(tmp_path, entries, config(num_speakers=2), audio=False)
    assert refused(tmp_path).startswith(f"{tmp_path / 'dataset.jsonl'}:2: {message}")


@pytest.mark.parametrize("key", ["phoneme_ids", "audio_norm_path", "speaker_id"])
def test_a_line_lacks_a_key(tmp_path: Path, key: str):
    entries = [entry(i, speaker_id=0) for i in range(3)]
    write_prepared(tmp_path, entries, config(num_speakers=2))
    del entries[2][key]
    write_prepared(tmp_path, entries, config(num_speakers=2), audio=False)
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path / 'dataset.jsonl'}:3: no ")
    assert key in message


# Audio


def bad_audio(path: Path, kind: str) -> None:
    if kind == "missing":
        path.unlink()
    elif kind == "no bytes":
        path.write_bytes(b"")
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), RATE)
    elif kind == "silent":
        soundfile.write(path, np.zeros(RATE), RATE)
    elif kind == "undecodable":
        path.write_bytes(b"no audio at all")
    elif kind == "rate":
        soundfile.write(path, tone(0.5, 22050), 22050)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "audio_norm_path '1.wav' does not exist"),
        ("no bytes", "empty: "),
        ("no samples", "empty: "),
        ("silent", "silent: "),
        ("undecodable", "undecodable: "),
        ("rate", "1.wav has 22050 samples per second, "),
    ],
)
def test_audio_files(tmp_path: Path, kind: str, message: str):
    write_prepared(tmp_path)
    bad_audio(tmp_path / "1.wav", kind)
    before = files_below(tmp_path)
    got = refused(tmp_path)
    assert got.startswith(f"{tmp_path / 'dataset.jsonl'}:2: ")
    assert message in got
    assert files_below(tmp_path) == before  # nothing half-written


@pytest.mark.parametrize("shape", [(-1,), (1, -1)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_arrays(tmp_path: Path, shape: tuple[int, ...], dtype: type):
    samples = (tone(0.5) * 32768).astype(np.int16)
    audio = samples if dtype is np.int16 else samples.astype(dtype) / 32768
    write_prepared(tmp_path, [entry(0, audio_norm_path="a.npy")])
    np.save(tmp_path / "a.npy", audio.reshape(shape))
    np.testing.assert_array_equal(load(tmp_path).audio(0), samples)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 500), np.float32), "undecodable: expected an array [samples] or"),
        (np.float32(1), "undecodable: expected an array [samples] or"),
        (np.arange(500), "undecodable: int64, expected int16 or float"),
        (np.array([None]), "undecodable: no array in it"),
        (np.full(500, np.nan), "not finite: "),
        (np.zeros(0, np.float32), "empty: "),
    ],
)
def test_arrays_that_are_no_audio(tmp_path: Path, array: np.ndarray, message: str):
    write_prepared(tmp_path, [entry(0, audio_norm_path="a.npy")])
    np.save(tmp_path / "a.npy", array)
    assert message in refused(tmp_path)


def test_files_are_packed_once_and_again_when_one_changes(tmp_path: Path):
    write_prepared(tmp_path)
    first = load(tmp_path).store.directory
    made = (first / "index.json").stat().st_mtime_ns
    assert load(tmp_path).store.directory == first
    assert (first / "index.json").stat().st_mtime_ns == made
    soundfile.write(tmp_path / "1.wav", tone(0.5, hertz=2000), RATE)
    second = load(tmp_path)
    assert second.store.directory != first
    assert np.abs(second.audio(1) - np.rint(tone(0.5, hertz=2000) * 32767)).max() <= 1


def test_a_damaged_pack_is_made_again(tmp_path: Path):
    write_prepared(tmp_path)
    store = load(tmp_path).store.directory
    next(store.rglob("*.array_record*")).write_bytes(b"")
    assert len(load(tmp_path).audio(0)) == RATE // 2


def test_packing_elsewhere(tmp_path: Path):
    prepared = write_prepared(tmp_path / "prepared")
    before = files_below(prepared)
    dataset = load(prepared, cache_dir=tmp_path / "cache")
    assert files_below(prepared) == before
    assert dataset.store.directory.parent == tmp_path / "cache"


def test_two_lines_may_share_a_file(tmp_path: Path):
    entries = [entry(0), entry(1, audio_norm_path="0.wav"), entry(2)]
    dataset = load(write_prepared(tmp_path, entries))
    assert dataset.records.tolist() == [0, 0, 1]


def test_paths_may_begin_in_the_working_directory(tmp_path: Path, monkeypatch):
    prepared = write_prepared(tmp_path / "prepared", [entry(0)])
    entries = [entry(0, audio_norm_path="prepared/0.wav")]
    write_prepared(prepared, entries, audio=False)
    monkeypatch.chdir(tmp_path)
    assert len(load(Path("prepared"))) == 1


def write_stored(directory: Path, count: int = 3) -> Path:
    """A prepared directory as `preprocess` writes it."""
    write_store(directory, "a" * 16, RATE, [recorded(np.arange(8000, dtype=np.int16))] * count)
    entries = [entry(i, audio_norm_path=f"audio-{'a' * 16}#{i}") for i in range(count)]
    return write_prepared(directory, entries)


def test_stored_audio(tmp_path: Path):
    dataset = load(write_stored(tmp_path))
    assert dataset.audio(2).tolist() == list(range(8000))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_packing_where_nothing_can_be_written(tmp_path: Path, monkeypatch, number: int):
    def read_only(*_):
        raise OSError(number, os.strerror(number))

    write_prepared(tmp_path)
    monkeypatch.setattr(building, "build", read_only)
    assert refused(tmp_path) == (
        f"{tmp_path}: the audio files should be packed there, but: {os.strerror(number)}"
    )


def test_a_full_disk_is_no_fault_of_the_user(tmp_path: Path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_prepared(tmp_path)
    monkeypatch.setattr(building, "build", full)
    with pytest.raises(OSError, match="No space left"):
        load(tmp_path)


def test_stored_audio_that_does_not_match(tmp_path: Path):
    write_stored(tmp_path)
    name, manifest = f"audio-{'a' * 16}", tmp_path / "dataset.jsonl"
    entries = [entry(0, audio_norm_path=f"{name}#0"), entry(1, audio_norm_path=f"{name}#3")]
    write_prepared(tmp_path, entries)
    assert refused(tmp_path) == (
        f"{manifest}:2: audio_norm_path names record 3 of {tmp_path / name}, which has 3"
    )
    write_prepared(tmp_path, [entries[0], entry(1)])
    assert refused(tmp_path).startswith(
        f"{manifest}:2: audio_norm_path '1.wav' is not in {name} as in line 1"
    )
    write_prepared(tmp_path, entries[:1], config(audio={"sample_rate": 22050}))
    assert "audio.sample_rate is 22050, but" in refused(tmp_path)
    write_prepared(tmp_path, [entry(0, audio_norm_path=f"audio-{'b' * 16}#0")])
    assert f"audio-{'b' * 16} does not exist" in refused(tmp_path)


# Left out


def test_more_phoneme_ids_than_frames(tmp_path: Path):
    frames = RATE // 2 // HOP
    entries = [entry(i) for i in range(3)]
    entries[0]["phoneme_ids"] = [5] * frames
    entries[1] |= {"phoneme_ids": [5] * (frames + 1), "audio_path": "/recordings/one.flac"}
    dataset = load(write_prepared(tmp_path, entries))
    assert dataset.lines.tolist() == [1, 3]
    assert dataset.phoneme_ids(1).tolist() == entries[2]["phoneme_ids"]
    assert [str(item) for item in dataset.left_out] == [
        "dataset.jsonl:2: one.flac: "
        f"more phoneme ids than frames: {frames + 1} ids, {frames} frames"
    ]


def test_too_many_phoneme_ids(tmp_path: Path):
    entries = [entry(0), entry(1, phoneme_ids=[5] * 8), entry(2, phoneme_ids=[5] * 7)]
    dataset = load(write_prepared(tmp_path, entries), max_phoneme_ids=7)
    assert dataset.lines.tolist() == [1, 3]
    assert [item.reason for item in dataset.left_out] == ["too many phoneme ids: 8, at most 7"]


def test_too_many_frames(tmp_path: Path):
    """A last, partial frame is one: batches give it the room of a whole one."""
    write_prepared(tmp_path)
    soundfile.write(tmp_path / "1.wav", tone(1.0)[: 40 * HOP], RATE)
    soundfile.write(tmp_path / "2.wav", tone(1.0)[: 39 * HOP + 1], RATE)
    soundfile.write(tmp_path / "0.wav", tone(1.0)[: 40 * HOP + 1], RATE)
    dataset = load(tmp_path, max_frames=40)
    assert dataset.lines.tolist() == [2, 3]
    assert [str(item) for item in dataset.left_out] == [
        "dataset.jsonl:1: 0.wav: too many frames: 41, at most 40"
    ]


def test_too_short(tmp_path: Path):
    write_prepared(tmp_path, [entry(0), entry(1, phoneme_ids=[5])])
    soundfile.write(tmp_path / "1.wav", tone(0.5)[: MIN_SAMPLES - 1], RATE)
    assert [item.kind for item in load(tmp_path).left_out] == ["too short"]


def test_nothing_is_left(tmp_path: Path):
    write_prepared(tmp_path)
    assert refused(tmp_path, max_phoneme_ids=1) == (
        f"{tmp_path / 'dataset.jsonl'}: no utterance is left of 3; the first: dataset.jsonl:1: "
        "0.wav: too many phoneme ids: 5, at most 1"
    )


def test_speakers_without_utterances_are_a_warning(tmp_path: Path, caplog):
    voice = config(num_speakers=3, speaker_id_map={"ann": 0, "bob": 1, "cat": 2})
    entries = [entry(0, speaker_id=0), entry(1, speaker_id=2)]
    load(write_prepared(tmp_path, entries, voice))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"warning: 1 of 3 speakers in {tmp_path / 'config.json'} have no utterance: bob"
    )


# Keys


def test_keys_stay_when_the_directory_moves_or_grows(tmp_path: Path):
    entries = [entry(i, speaker="ann", audio_path=f"/a/{i}.wav") for i in range(4)]
    before = load(write_prepared(tmp_path / "before", entries)).keys
    for item in entries:
        item |= {"audio_path": item["audio_path"].replace("/a/", "C:\\b\\")}
    entries = [entry(9), *reversed(entries)]
    entries[1]["phoneme_ids"] = [1, 2]  # another version of the phonemizer
    after = load(write_prepared(tmp_path / "after", entries)).keys
    assert after.tolist()[1:] == before.tolist()[::-1]
    assert len(set(after.tolist())) == 5


def test_keys_tell_utterances_apart(tmp_path: Path):
    plain = {"speaker": "ann", "audio_path": "0.wav"}
    entries = [
        entry(0, **plain),
        entry(0, **plain | {"speaker": "bob"}),
        entry(0, **plain | {"audio_path": "1.wav"}),
        entry(0, **plain, phoneme_ids=[7]) | {"text": "another"},
        entry(0, **plain) | {"text": None},
        entry(0, **plain, phoneme_ids=[7]) | {"text": None},
    ]
    assert len(set(load(write_prepared(tmp_path, entries)).keys.tolist())) == len(entries)


def test_a_single_json_line_is_read_whole(tmp_path: Path):
    """Characters that end a line for `str.splitlines` but not for JSON lines."""
    text = "one\u2028two\x85three\x0cfour"
    write_prepared(tmp_path, [entry(0)])
    line = json.dumps(entry(0, text=text), ensure_ascii=False) + "\n"
    (tmp_path / "dataset.jsonl").write_text(line, "utf-8", newline="")
    assert load(tmp_path).text(0) == text
