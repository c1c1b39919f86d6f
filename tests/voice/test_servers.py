"""An exported voice in the servers that homes have: wyoming-piper and Piper's own, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from piper import PiperVoice, SynthesisConfig, download_voices
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeVoice
from wyoming_piper import download

from tests.runs import RATE
from tests.serving import served

TEXT = "Hello there."
DEADLINE = 120.0  # seconds; what takes long is a machine that does much else
KEY = "en_US-anna-tiny"
HUB = "https://huggingface.co/rhasspy/piper-voices/resolve/main"


@pytest.fixture(scope="module")
def exported(tree: Path) -> Path:
    """The voice where it was written."""
    return tree / "en" / "en_US" / "anna" / "tiny" / f"{KEY}.onnx"


@pytest.fixture(scope="module")
def hub(tree: Path) -> Iterator[str]:
    """The address of a server that has the tree, in place of Hugging Face's."""
    with served(tree) as address:
        yield address


def listening(pid: int) -> list[int]:
    """The TCP ports on which a process waits for others."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(entry.readlink()))
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return [
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if row[3] == "0A" and f"socket:[{row[9]}]" in sockets
    ]


@contextlib.contextmanager
def serving(log: Path, *command: str) -> Iterator[int]:
    """The port of a server that listens on one of the system's choice, port 0."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-m", *command], cwd=log.parent, stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            deadline = time.monotonic() + DEADLINE
            while True:
                assert process.poll() is None, log.read_text()
                ports = listening(process.pid)
                if ports:
                    break
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield ports[0]
        finally:
            process.kill()


def expected(path: Path, speaker: int) -> np.ndarray:
    """What the voice says without noise, int16."""
    how = SynthesisConfig(speaker_id=speaker, noise_scale=0.0, noise_w_scale=0.0)
    (chunk,) = PiperVoice.load(path).synthesize(TEXT, how)
    return chunk.audio_int16_array


def assert_spoken(audio: bytes, path: Path, speaker: int) -> None:
    samples = np.frombuffer(audio, np.int16)
    assert np.abs(samples.astype(np.int32)).max() > 3000
    np.testing.assert_allclose(samples, expected(path, speaker), rtol=0, atol=2)


# Piper's downloader


def test_pipers_downloader_finds_it(
    exported: Path, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for name in ("URL_FORMAT", "VOICES_JSON"):
        address = getattr(download_voices, name)
        assert address.startswith(HUB)
        monkeypatch.setattr(download_voices, name, address.replace(HUB, hub))
    download_voices.list_voices()
    assert capsys.readouterr().out.split() == [KEY]
    download_voices.download_voice(KEY, tmp_path)
    for name in (f"{KEY}.onnx", f"{KEY}.onnx.json"):
        assert (tmp_path / name).read_bytes() == exported.with_name(name).read_bytes()
    assert PiperVoice.load(tmp_path / f"{KEY}.onnx").config.num_speakers == 2
    with pytest.raises(urllib.error.HTTPError):
        download_voices.download_voice("en_US-anna-high", tmp_path)


# wyoming-piper, as Home Assistant asks it


async def described(port: int) -> Info:
    async with AsyncTcpClient("127.0.0.1", port, DEADLINE, DEADLINE) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
    assert event is not None
    return Info.from_event(event)


async def spoken(port: int, voice: SynthesizeVoice) -> tuple[AudioStart, bytes]:
    start, audio = None, b""
    async with AsyncTcpClient("127.0.0.1", port, DEADLINE, DEADLINE) as client:
        await client.write_event(Synthesize(TEXT, voice).event())
        while True:
            event = await client.read_event()
            assert event is not None
            assert not Error.is_type(event.type), event
            if AudioStop.is_type(event.type):
                break
            if AudioStart.is_type(event.type):
                start = AudioStart.from_event(event)
            elif AudioChunk.is_type(event.type):
                audio += AudioChunk.from_event(event).audio
    assert start is not None
    return start, audio


@pytest.fixture
def home(exported: Path, hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of wyoming-piper: one voice from the list, and one that was copied there."""
    monkeypatch.setattr(download, "URL_FORMAT", download.URL_FORMAT.replace(HUB, hub))
    directory = tmp_path / "home"
    directory.mkdir()
    voices = download.get_voices(directory, update_voices=True)
    download.ensure_voice_exists(KEY, [directory], directory, voices)
    fetched = sorted(path.name for path in directory.iterdir())
    assert fetched == [f"{KEY}.onnx", f"{KEY}.onnx.json", "voices.json"]
    for ending in (".onnx", ".onnx.json"):
        shutil.copy(exported.with_name(KEY + ending), directory / f"copied{ending}")
    return directory


def test_wyoming_lists_it_and_speaks(exported: Path, home: Path, tmp_path: Path) -> None:
    command = ["wyoming_piper", "--voice", KEY, "--data-dir", str(home)]
    command += ["--uri", "tcp://127.0.0.1:0", "--noise-scale", "0", "--noise-w-scale", "0"]
    with serving(tmp_path / "log", *command) as port:
        (program,) = asyncio.run(described(port)).tts
        voices = {voice.name: voice for voice in program.voices}
        for name, description in ((KEY, "anna (tiny)"), ("copied", "anna (tiny)")):
            assert (voices[name].languages, voices[name].installed) == (["en_US"], True)
            assert voices[name].description == description
        assert [speaker.name for speaker in voices[KEY].speakers or []] == ["ann", "bob"]
        for number, speaker in enumerate(("ann", "bob")):
            start, audio = asyncio.run(spoken(port, SynthesizeVoice(KEY, speaker=speaker)))
            assert (start.rate, start.width, start.channels) == (RATE, 2, 1)
            assert_spoken(audio, exported, number)
        for name in ("copied", "anna"):  # `dataset` is another name of it
            _, audio = asyncio.run(spoken(port, SynthesizeVoice(name, speaker="bob")))
            assert_spoken(audio, exported, 1)


# Piper's web server


def asked(port: int, page: str, question: dict[str, Any] | None = None) -> bytes:
    data = None if question is None else json.dumps(question).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{page}", data, kind)
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return answer.read()


def test_the_web_server_lists_it_and_speaks(exported: Path, tmp_path: Path) -> None:
    command = ["piper.http_server", "-m", KEY, "--data-dir", str(exported.parent)]
    command += ["--host", "127.0.0.1", "--port", "0", "--noise-scale", "0", "--noise-w-scale", "0"]
    with serving(tmp_path / "log", *command) as port:
        assert json.loads(asked(port, "info"))["voice"] == {
            "name": KEY,
            "language": "en-us",
            "num_speakers": 2,
        }
        (config,) = json.loads(asked(port, "voices")).values()
        assert config == json.loads(exported.with_name(f"{KEY}.onnx.json").read_text())
        assert config["language"]["country_english"] == "United States"
        for number, speaker in enumerate(("ann", "bob")):
            answer = asked(port, "synthesize", {"text": TEXT, "speaker": speaker})
            with wave.open(io.BytesIO(answer)) as file:
                assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
                assert_spoken(file.readframes(file.getnframes()), exported, number)
