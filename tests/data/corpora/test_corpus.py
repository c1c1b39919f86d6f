"""ljspeech metadata: what is read, what is left out and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.tones import write_corpus
from vits_jax.data.corpora.corpus import read_ljspeech, speaker_ids
from vits_jax.errors import UserError


def reasons(corpus):
    return {item.where: (item.name, item.reason) for item in corpus.left_out}


def test_two_columns(tmp_path: Path):
    write_corpus(tmp_path, ["a|Hello.", "b|Good bye."], {"a": 0.1, "b": 0.1})
    corpus = read_ljspeech(tmp_path)
    assert [(r.where, r.name, r.speaker, r.text) for r in corpus.rows] == [
        ("metadata.csv:1", "a", None, "Hello."),
        ("metadata.csv:2", "b", None, "Good bye."),
    ]
    assert corpus.rows[0].audio_path == tmp_path / "wavs" / "a.wav"
    assert not corpus.left_out
    assert not corpus.notes


def test_three_columns_name_the_speaker_unless_told_otherwise(tmp_path: Path):
    write_corpus(tmp_path, ["a|ann|Hello."], {"a": 0.1})
    assert read_ljspeech(tmp_path).rows[0].speaker == "ann"
    row = read_ljspeech(tmp_path, single_speaker=True).rows[0]
    assert (row.speaker, row.text) == (None, "Hello.")


@pytest.mark.parametrize("folder", ["wav", "wavs", "."])
@pytest.mark.parametrize("name", ["a", "a.wav"])
def test_where_recordings_may_lie(tmp_path: Path, folder: str, name: str):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "a.wav").write_bytes(b"not looked at here")
    (tmp_path / "metadata.csv").write_text(f"{name}|Hello.\n")
    assert read_ljspeech(tmp_path).rows[0].audio_path == tmp_path / folder / "a.wav"


def test_a_bom_does_not_lose_the_first_row_nor_crlf_the_text(tmp_path: Path):
    write_corpus(tmp_path, [], {"a": 0.1, "b": 0.1})
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbfa|One.\r\n\r\nb|Two.\r\n")
    rows = read_ljspeech(tmp_path).rows
    assert [(r.where, r.name, r.text) for r in rows] == [
        ("metadata.csv:1", "a", "One."),
        ("metadata.csv:3", "b", "Two."),
    ]


def test_a_stray_quote_swallows_nothing_and_is_noted(tmp_path: Path):
    names = ["a", "b", "c", "d"]
    lines = ['a|"Hello, she said.', "b|Two.", 'c|He said "no".', 'd|"Quoted."']
    write_corpus(tmp_path, lines, dict.fromkeys(names, 0.1))
    corpus = read_ljspeech(tmp_path)
    assert [row.text for row in corpus.rows] == [line.partition("|")[2] for line in lines]
    # Row c has quotes inside the text, which CSV leaves alone.
    assert [note.partition(": ")[0] for note in corpus.notes] == [
        "metadata.csv:1",
        "metadata.csv:4",
    ]


def test_every_row_that_cannot_be_used_is_named(tmp_path: Path):
    write_corpus(tmp_path, [], {"ok": 0.1, "nul": 0.1})
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "folder.wav").mkdir()
    lines = [
        b"ok|Fine.",
        b"lonely",
        b"|No id.",
        b"empty| ",
        b"gone|No such file.",
        b"latin|caf\xe9",
        b"nul|a\0b",
        b"loop|A link to itself.",
        b"folder|A directory.",
        b"x" * 5000 + b"|A name that no file can have.",
    ]
    (tmp_path / "metadata.csv").write_bytes(b"\n".join(lines))
    corpus = read_ljspeech(tmp_path)
    no_audio = "no audio: no such file beside metadata.csv, in wav/ or in wavs/"
    assert [row.name for row in corpus.rows] == ["ok"]
    assert reasons(corpus) == {
        "metadata.csv:2": ("lonely", "one column: expected id|text or id|speaker|text"),
        "metadata.csv:3": ("(no id)", "no id: the first column is empty"),
        "metadata.csv:4": ("empty", "no text: the last column is empty"),
        "metadata.csv:5": ("gone", no_audio),
        "metadata.csv:6": ("latin", "not UTF-8: byte 10 of the line"),
        "metadata.csv:7": ("nul", "holds a NUL byte"),
        "metadata.csv:8": ("loop", no_audio),
        "metadata.csv:9": ("folder", no_audio),
        "metadata.csv:10": ("x" * 5000, no_audio),
    }
    assert corpus.num_rows == len(lines)


def test_rows_without_a_speaker_among_rows_with_one(tmp_path: Path):
    write_corpus(tmp_path, ["a|ann|A.", "b|B.", "c||C."], {"a": 0.1, "b": 0.1, "c": 0.1})
    corpus = read_ljspeech(tmp_path)
    assert [row.name for row in corpus.rows] == ["a"]
    assert reasons(corpus) == {
        "metadata.csv:2": ("b", "no speaker: two columns, where other rows have three"),
        "metadata.csv:3": ("c", "no speaker: the second column is empty"),
    }


def test_more_columns_are_noted(tmp_path: Path):
    write_corpus(tmp_path, ["a|ann|raw|read"], {"a": 0.1})
    corpus = read_ljspeech(tmp_path)
    assert corpus.rows[0].text == "read"
    assert corpus.notes == ["metadata.csv:1: a: 4 columns, the last is taken as the text"]


def test_speakers_with_most_utterances_come_first():
    assert speaker_ids(["b", "a", "c", "a", "c", "a"]) == {"a": 0, "c": 1, "b": 2}


def test_no_directory_no_file_no_utf8(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere is not a directory: --input-dir"):
        read_ljspeech(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"metadata\.csv does not exist"):
        read_ljspeech(tmp_path)
    (tmp_path / "metadata.csv").write_bytes("a|Hello.".encode("utf-16"))
    with pytest.raises(UserError, match="is UTF-16: save it as UTF-8"):
        read_ljspeech(tmp_path)
