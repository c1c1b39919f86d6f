"""A folder of recordings to a corpus: texts beside them, a recogniser's, pieces of long ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.tones import RATE, tone
from vits_jax.commands.gather import main
from vits_jax.data.corpora.audio_files import decode
from vits_jax.data.corpora.corpus import read_corpus
from vits_jax.data.gathering.gather import GATHERED, TRANSCRIPTS

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo" / "wav"
HEARS = f"{__name__}:hears"

heard: list[tuple[np.ndarray, int]] = []
fails_at: list[int] = []


def hears(samples: np.ndarray, rate: int) -> str:
    """A recogniser: it counts."""
    heard.append((samples, rate))
    if len(heard) in fails_at:
        raise ValueError("no\nmemory")
    return f"Sentence | number\n{len(heard)}. "


def hears_nothing(samples: np.ndarray, rate: int) -> str:
    return "  "


def gives_a_number(samples: np.ndarray, rate: int) -> int:
    return 7


def at_8000(samples: np.ndarray, rate: int) -> str:
    return f"{len(samples)} at {rate}"


at_8000.sample_rate = 8000  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _forget() -> None:
    heard.clear()
    fails_at.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "recordings"


def write(folder: Path, name: str, seconds: float, text: str | None = None) -> Path:
    path = folder / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds), RATE)
    if text is not None:
        path.with_suffix(".txt").write_text(text, "utf-8-sig")
    return path


def write_long(folder: Path, count: int = 12) -> Path:
    """Sentences with pauses between them: some 30 seconds."""
    parts = []
    for path in sorted(DEMO.iterdir())[:count]:
        audio, rate, _ = decode(path)
        parts += [audio, np.zeros(int(0.6 * rate), np.float32)]
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "long.flac", np.concatenate(parts), rate)
    return folder / "long.flac"


def rows(out: Path) -> list[tuple[str, str]]:
    """What `preprocess` finds in it."""
    corpus = read_corpus(out, "ljspeech")
    assert corpus.left_out == []
    assert all(row.speaker is None for row in corpus.rows)
    return [(str(row.audio_path), row.text) for row in corpus.rows]


def failure(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 2) -> str:
    assert main([str(word) for word in argv]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_texts_beside_recordings(folder: Path, tmp_path: Path):
    one = write(folder, "b", 2, "Tea | or\ncoffee?\n")
    two = write(folder, "more/a", 1, "“Ü”")
    (folder / "notes.md").write_text("no recording")
    (folder / ".trash").mkdir()
    write(folder, ".trash/c", 1)
    out = tmp_path / "out"
    assert main([str(folder), str(out)]) == 0
    assert rows(out) == [(str(one), "Tea or coffee?"), (str(two), "“Ü”")]
    assert json.loads((out / GATHERED).read_text())["used_seconds"] == 3
    assert sorted(path.name for path in out.iterdir()) == [GATHERED, "metadata.csv"]


def test_out_may_lie_in_the_folder_and_is_written_anew(folder: Path):
    write(folder, "a", 1, "One.")
    write_long(folder)
    (folder / "long.txt").write_text("Is not used: it is cut.")
    for _ in range(2):
        assert main([str(folder), str(folder / "out"), "--recogniser", HEARS]) == 0
        assert json.loads((folder / "out" / GATHERED).read_text())["recordings"] == 2


def test_recordings_without_texts_want_a_recogniser(folder: Path, tmp_path: Path, capsys):
    write(folder, "a", 1, "One.")
    missing = write(folder, "b", 1)
    write(folder, "c", 1, " \n")
    said = failure(capsys, folder, tmp_path / "out")
    assert f"2 of 3 recordings have no text: {missing}, " in said
    assert "into b.txt beside it" in said
    assert "--recogniser package.module:function" in said
    assert not (tmp_path / "out").exists()


def test_a_long_recording_with_one_text_cannot_be_cut(folder: Path, tmp_path: Path, capsys):
    long = write(folder, "a", 15.5, "A long text.")
    said = failure(capsys, folder, tmp_path / "out")
    assert f"1 of 1 recordings are longer than 15 seconds: {long}: " in said
    assert "each piece gets a text of its own" in said
    assert main([str(folder), str(tmp_path / "out"), "--longest", "20"]) == 0
    assert rows(tmp_path / "out") == [(str(long), "A long text.")]


def test_a_recogniser_hears_what_has_no_text(folder: Path, tmp_path: Path):
    write(folder, "silent", 3)  # a tone is no speech
    write(folder, "told", 1, "Told.")
    spoken = sorted(DEMO.iterdir())[0]
    (folder / "spoken.flac").write_bytes(spoken.read_bytes())
    out = tmp_path / "out"
    assert main([str(folder), str(out), "--recogniser", HEARS]) == 0
    assert [text for _, text in rows(out)] == ["Sentence number 1.", "Told."]
    ((samples, rate),) = heard
    audio, _, _ = decode(spoken)
    assert (samples.dtype, rate) == (np.float32, 16000)
    np.testing.assert_array_equal(samples, audio)
    told = json.loads((out / GATHERED).read_text())
    assert told["left_out"] == {"no speech": [1, 3.0]}
    assert (told["transcribed"], told["cut"]) == (1, 0)


def test_a_long_recording_is_cut_and_heard_piece_by_piece(folder: Path, tmp_path: Path, caplog):
    caplog.set_level("INFO")
    write_long(folder)
    out = tmp_path / "out"
    assert main([str(folder), str(out), "--recogniser", HEARS]) == 0
    found = rows(out)
    assert len(found) == len(heard) >= 3
    assert [text for _, text in found] == [f"Sentence number {i + 1}." for i in range(len(found))]
    for (path, _), (samples, _) in zip(found, heard):
        assert path == str(out / "wav" / f"{Path(path).stem}.flac")
        audio, rate, _ = decode(Path(path))
        assert 2 <= len(audio) / rate <= 12
        np.testing.assert_array_equal(audio, samples)
    told = json.loads((out / GATHERED).read_text())
    assert told["cut"] == 1
    assert told["used_seconds"] == pytest.approx(sum(len(s) for s, _ in heard) / 16000, abs=0.01)
    assert "1 recordings were cut at silences" in caplog.text


def test_what_was_heard_is_not_asked_again(folder: Path, tmp_path: Path, capsys):
    long, out = write_long(folder), tmp_path / "out"
    fails_at.append(3)
    said = failure(capsys, folder, out, "--recogniser", HEARS, code=1)
    assert f"failed: --recogniser {HEARS} failed at {long} from " in said
    assert "ValueError: no memory" in said
    assert not (out / "metadata.csv").exists()
    with (out / TRANSCRIPTS).open("a") as file:
        file.write('{"audio": "12')  # as a start leaves it that is killed
    assert main([str(folder), str(out), "--recogniser", HEARS]) == 0
    numbers = [int(text.split()[-1].strip(".")) for _, text in rows(out)]
    assert numbers[:3] == [1, 2, 4]
    before = len(heard)
    assert main([str(folder), str(out), "--recogniser", HEARS]) == 0
    assert len(heard) == before == numbers[-1]
    assert main([str(folder), str(out), "--recogniser", f"{__name__}:at_8000"]) == 0
    assert all(text.endswith(" at 8000") for _, text in rows(out))


def test_what_a_recogniser_may_do_wrong(folder: Path, tmp_path: Path, capsys):
    write_long(folder, 6)
    out = tmp_path / "out"
    for name, told in (
        ("gives_a_number", "gave int for"),
        ("hears_nothing", "left out, no words: "),
        ("not_there", "has no function 'not_there'"),
    ):
        said = failure(capsys, folder, out, "--recogniser", f"{__name__}:{name}", "--longest", "4")
        assert told in said
        assert not (out / "metadata.csv").exists()


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path, caplog, capsys):
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"nothing")
    (folder / "b.flac").write_bytes(sorted(DEMO.iterdir())[0].read_bytes())
    assert main([str(folder), str(tmp_path / "out"), "--recogniser", HEARS]) == 0
    assert f"{folder / 'a.wav'}: left out: undecodable" in caplog.text
    assert len(rows(tmp_path / "out")) == 1
    (folder / "b.txt").write_bytes(b"\xff\xfe")
    assert "b.txt: expected a text in UTF-8" in failure(capsys, folder, tmp_path / "out")
    (folder / "b.txt").write_text("B.")
    (folder / "b.wav").write_bytes((folder / "b.flac").read_bytes())
    assert "have one name" in failure(capsys, folder, tmp_path / "out")


def test_other_mistakes(folder: Path, tmp_path: Path, capsys):
    assert "is not a directory" in failure(capsys, folder, tmp_path / "out")
    folder.mkdir()
    assert "holds no recordings" in failure(capsys, folder, tmp_path / "out")
    write(folder, "a", 1, "A.")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "metadata.csv").write_text("x|y\n")
    assert "holds a corpus of yours" in failure(capsys, folder, theirs)
    assert (theirs / "metadata.csv").read_text() == "x|y\n"
    assert "--longest -1" in failure(capsys, folder, theirs, "--longest=-1")
    write(folder, "a|b", 1, "A.")
    assert "rename it" in failure(capsys, folder, tmp_path / "out")
