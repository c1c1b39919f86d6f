"""The command as a process: killed, stopped, crashed, started twice."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.commands.preprocessing import decoding, flags, load, visible
from tests.data.tones import RATE, tone, write_corpus
from vits_jax.commands.preprocess import main
from vits_jax.data.storage.lock import alone

SLOW = """
import sys, time
from vits_jax.data.corpora import audio_files
from vits_jax.data.storage import shards
decode = audio_files.decode
def slowly(path, *more):
    print("decoding", path.stem, flush=True)
    time.sleep(600 if path.stem == "b" else 0)
    return decode(path, *more)
audio_files.decode = slowly
shards.SHARD_BYTES = 1
from vits_jax.commands.preprocess import main
sys.exit(main(sys.argv[1:]))
"""


# What workers do too: they import the program.
WORKING = """
import os, signal, sys, time
from vits_jax.data.corpora import audio_files
from vits_jax.data.storage import shards
decode = audio_files.decode
def noted(path, *more):
    parent = os.getppid()
    while path.stem == os.environ.get("WAIT_AT") and os.getppid() == parent:
        time.sleep(0.05)
    if path.stem == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode(path, *more)
audio_files.decode = noted
shards.SHARD_BYTES = 100_000
if __name__ == "__main__":
    from vits_jax.commands.preprocess import main
    sys.exit(main(sys.argv[1:]))
"""


def write_tones(directory: Path, count: int) -> Path:
    """A corpus of recordings of a second, no two alike."""
    names = [f"n{i:02d}" for i in range(count)]
    corpus = write_corpus(directory, [f"{name}|Hello {name}." for name in names])
    for i, name in enumerate(names):
        soundfile.write(corpus / "wavs" / f"{name}.wav", tone(1.0, hertz=1000 + 20 * i), RATE)
    return corpus


def start_working(directory: Path, *arguments: str, wait_at: str = "") -> subprocess.Popen[str]:
    """The command, as a process; at a recording of that name it waits to be killed."""
    (directory / "program.py").write_text(WORKING)
    return subprocess.Popen(
        [sys.executable, str(directory / "program.py"), *arguments],
        env=os.environ | {"WAIT_AT": wait_at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_it_does_the_rest_and_the_result_is_the_same(tmp_path: Path, monkeypatch):
    corpus = write_tones(tmp_path / "corpus", 30)
    assert main(flags(corpus, tmp_path / "whole")) == 0
    arguments = flags(corpus, tmp_path / "out", "--max-workers=2")
    process = start_working(tmp_path, *arguments, wait_at="n20")
    parts: list[Path] = []
    while len(parts) < 2:
        assert process.poll() is None
        parts = sorted((tmp_path / "out").glob(".audio-*/parts/*.json"))
    process.kill()
    process.communicate(timeout=300)  # ends with the workers: they hold its ends of the pipes
    parts = sorted((tmp_path / "out").glob(".audio-*/parts/*.json"))
    done = sum(len(json.loads(part.read_text())["recordings"]) for part in parts)
    assert 0 < done < 30
    assert visible(tmp_path / "out") == {}
    decoded = decoding(monkeypatch)
    assert main(flags(corpus, tmp_path / "out")) == 0
    assert decoded == [f"n{i:02d}" for i in range(done, 30)]
    for name in ("dataset.jsonl", "config.json"):
        written = [(tmp_path / where / name).read_text() for where in ("whole", "out")]
        assert written[0].replace('"whole"', '"out"') == written[1]
    whole, out = load(tmp_path / "whole"), load(tmp_path / "out")
    for row in range(30):
        np.testing.assert_array_equal(whole.audio(row), out.audio(row))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_recording_whose_decoding_crashes_is_left_out(tmp_path: Path, monkeypatch, caplog):
    corpus = write_tones(tmp_path / "corpus", 6)
    (corpus / "wavs" / "n02.wav").rename(corpus / "wavs" / "crash.wav")
    metadata = (corpus / "metadata.csv").read_text().replace("n02|", "crash|")
    (corpus / "metadata.csv").write_text(metadata)
    process = start_working(tmp_path, *flags(corpus, tmp_path / "out", "--max-workers=2"))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    left_out = "metadata.csv:3: crash: crashed: the process that reads it dies (SIGSEGV)"
    assert f"left out 1: 1 crashed\n  {left_out}\nused 5 of 6 rows" in said
    name = re.escape(str(corpus / "wavs" / "crash.wav"))
    assert re.search(rf"a worker process died \(SIGSEGV\); it was at one of: .*{name}", said)
    assert len(load(tmp_path / "out")) == 5
    decoded = decoding(monkeypatch)
    caplog.set_level("INFO")
    assert main(flags(corpus, tmp_path / "out")) == 0
    assert decoded == []  # it is not met again
    assert f"  {left_out}" in caplog.messages


def test_a_second_one_waits_for_the_first(corpus: Path, prepared: Path, tmp_path: Path):
    with alone(prepared / ".preprocess.lock") as held:
        assert held
        second = start_working(tmp_path, *flags(corpus, prepared))
        assert second.stderr is not None
        assert second.stderr.readline() == (
            f"waiting for process {os.getpid()} on {socket.gethostname()}, "
            f"which works in {prepared}\n"
        )
        assert os.listdir(prepared) == [".preprocess.lock"]
    assert main(flags(corpus, prepared)) == 0
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert len(load(prepared)) == 3
    assert not [path for path in prepared.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_stopping_it_leaves_nothing_half_written(
    corpus: Path, prepared: Path, monkeypatch, number: signal.Signals, code: int
):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *flags(corpus, prepared)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in "ab"] == ["decoding a\n", "decoding b\n"]
    process.send_signal(number)
    _, error = process.communicate(timeout=300)
    assert process.returncode == code
    assert "Traceback" not in error
    assert visible(prepared) == {}
    decoded = decoding(monkeypatch)
    assert main(flags(corpus, prepared)) == 0
    assert decoded == ["b", "c"]  # what was done of it is not done again
    assert len(load(prepared)) == 3
    assert not [p for p in prepared.iterdir() if p.name.startswith(".")]


def test_interrupted_with_workers(tmp_path: Path):
    names = [f"n{i}" for i in range(30)]
    corpus = write_corpus(tmp_path / "corpus", [f"{n}|Hello." for n in names])
    for i, name in enumerate(names):  # no two alike, or they were prepared once
        soundfile.write(corpus / "wavs" / f"{name}.wav", tone(25.0, hertz=1000 + i), RATE)
    arguments = flags(corpus, tmp_path / "out", "--max-workers", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "vits_jax.preprocess", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "out").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1.0)  # workers start, or are at it
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does, to the workers too
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error.strip()) == (130, "interrupted")
    assert visible(tmp_path / "out") == {}
