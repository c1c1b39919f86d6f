"""Anything at all for input: an answer, or one line that says what is wrong with it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.tones import HOP, MIN_SAMPLES, RATE, config, entry, tone, write_prepared
from vits_jax.commands.check import main as check
from vits_jax.data.corpora import audio_files
from vits_jax.data.corpora.audio_files import AudioFault, Target
from vits_jax.data.corpora.corpus import read_corpus
from vits_jax.data.manifest import load_dataset
from vits_jax.errors import UserError

# A slow example fails: nothing may hang, whatever a header says.
fuzzed = settings(
    max_examples=150,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters() | st.characters(categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something in it replaced, removed or added."""
    value = copy.deepcopy(value)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return value
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw(st.booleans()):
            place = inner
            continue
        if draw(st.booleans()):
            place[key] = draw(JSON)
        elif isinstance(place, dict):
            del place[key]
        else:
            place.append(draw(JSON))
        return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 6) -> bytes:
    """`content` with bytes changed, cut out or put in."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(result) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if kind == "change":
            result[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del result[at : at + draw(st.integers(1, 20))]
        elif kind == "insert":
            result[at:at] = draw(st.binary(max_size=20))
        else:
            del result[at:]
    return bytes(result)


def text_of(value: Any) -> str:
    return json.dumps(value)  # NaN and infinity as Python and JavaScript write them


def answered(directory: Path) -> None:
    """Both readers of a prepared directory give an answer or say what is wrong."""
    with contextlib.suppress(UserError):
        load_dataset(directory, hop_length=HOP, min_samples=MIN_SAMPLES)
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = check([str(directory), "--json", "--max-workers", "1", "--batch-size", "2"])
    assert code in (0, 2)
    if code == 0:
        report = json.loads(out.getvalue())
        assert report["rows"] == report["used"] + len(report["left_out"])
    else:
        assert error.getvalue().startswith("error: ")
        assert error.getvalue().count("\n") == 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("fuzz"))


@fuzzed
@given(altered(config()) | JSON)
def test_config(prepared: Path, value: Any):
    (prepared / "dataset.jsonl").write_text("".join(json.dumps(entry(i)) + "\n" for i in range(3)))
    (prepared / "config.json").write_text(text_of(value))
    answered(prepared)


@fuzzed
@given(st.lists(altered(entry(0)) | JSON, min_size=1, max_size=3), st.sampled_from([1, 3]))
def test_dataset(prepared: Path, entries: list[Any], speakers: int):
    (prepared / "config.json").write_text(json.dumps(config(num_speakers=speakers)))
    (prepared / "dataset.jsonl").write_text("".join(text_of(line) + "\n" for line in entries))
    answered(prepared)


@fuzzed
@given(
    damaged(json.dumps(config()).encode()),
    damaged("".join(json.dumps(entry(i)) + "\n" for i in range(3)).encode()),
)
def test_bytes_of_a_prepared_directory(prepared: Path, voice: bytes, lines: bytes):
    (prepared / "config.json").write_bytes(voice)
    (prepared / "dataset.jsonl").write_bytes(lines)
    answered(prepared)


ROW = b'a|ann|One "two".\r\nb|bob|Three\xc3\xa9.\nc.wav|bob|"Four\n'


@fuzzed
@given(damaged(ROW) | st.binary(max_size=200), st.booleans(), st.booleans(), st.booleans())
def test_metadata(prepared: Path, content: bytes, single: bool, ids: bool, mycroft: bool):
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder)
        name = "x-metadata.txt" if mycroft else "metadata.csv"
        (corpus / name).write_bytes(content)
        for audio in ("a.wav", "b.wav", "c.wav"):
            (corpus / audio).write_bytes(b"not looked at here")
        try:
            read = read_corpus(
                corpus, "mycroft" if mycroft else "ljspeech", single, phoneme_ids=ids
            )
        except UserError as error:
            assert "UTF-16" in str(error)
            return
        rows = sum(map(bool, map(bytes.strip, content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))))
        assert read.num_rows == rows
        wheres = [item.where for item in [*read.rows, *read.left_out]]
        assert len(set(wheres)) == rows


class Deaf:
    """A speech detector that hears nothing, and takes no time for it."""

    def chunk_samples(self) -> int:
        return 512

    def reset(self) -> None:
        pass

    def process_array(self, chunk: np.ndarray) -> float:
        return 0.0


def audio(kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(0.1), RATE, format=kind, subtype=subtype)
    return file.getvalue()


FILES = {
    "wav": audio("WAV"),
    "float": audio("WAV", "FLOAT"),
    "adpcm": audio("WAV", "IMA_ADPCM"),
    "wavex": audio("WAVEX", "PCM_24"),
    "flac": audio("FLAC"),
    "ogg": audio("OGG"),
    "opus": audio("OGG", "OPUS"),
    "mp3": audio("MP3"),
    "aiff": audio("AIFF"),
}


def heard(path: Path) -> None:
    """A recording of the right kind, or a fault."""
    with contextlib.suppress(AudioFault):
        recording = audio_files.prepare(path, Target(RATE, MIN_SAMPLES, 60.0), Deaf())
        assert recording.samples.dtype == np.int16
        assert MIN_SAMPLES <= len(recording.samples) <= 60 * RATE
        assert 0 < recording.rate < 1_000_000


@pytest.mark.parametrize("kind", FILES)
def test_audio_files(tmp_path: Path, kind: str):
    path = tmp_path / "a.wav"

    @settings(fuzzed, max_examples=40)
    @given(damaged(FILES[kind][:200], most=3).map(lambda head: head + FILES[kind][200:]))
    def run(content: bytes) -> None:
        path.write_bytes(content)
        heard(path)

    run()


@fuzzed
@given(
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**16 - 1) | st.sampled_from([1, 2, 1024]),
    st.integers(0, 2**32 - 1) | st.sampled_from([1, 1000, 8000, 768_000]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1) | st.sampled_from([1, 2, 4]),
    st.integers(0, 2**16 - 1) | st.sampled_from([8, 16, 24, 32]),
    st.integers(0, 2**32 - 1),
)
def test_wav_headers(
    tmp_path: Path, kind: int, channels: int, rate: int, bytes_second: int, block: int, bits: int,
    size: int,
):  # fmt: skip
    """Every number of a header, with 3,200 bytes of audio behind it."""
    fields = struct.pack("<HHIIHH", kind % 4, channels, rate, bytes_second, block, bits)
    head = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", 16) + fields
    path = tmp_path / "a.wav"
    path.write_bytes(head + b"data" + struct.pack("<I", size) + FILES["wav"][44:])
    heard(path)


def test_a_flac_that_claims_a_year_of_audio_takes_no_memory(tmp_path: Path):
    content = bytearray(FILES["flac"])
    assert content[:4] == b"fLaC"
    content[21] |= 0x0F  # the 36 bits of STREAMINFO that hold the number of samples
    content[22:26] = b"\xff\xff\xff\xff"
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(AudioFault, match="^undecodable: "):
        audio_files.decode(tmp_path / "a.flac")
