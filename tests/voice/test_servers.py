"""An exported voice in the servers that homes have: wyoming-piper and Piper's own, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import sys
import time
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from piper import PiperVoice, SynthesisConfig
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeVoice

from tests.runs import RATE
from tests.voice import test_voice
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.store import Metadata
from vits_jax.commands.export_onnx import main
from vits_jax.model.networks import GENERATOR
from vits_jax.state import Position, TrainState
from vits_jax.voice import export
from vits_jax.voice.verify import Agreement

TEXT = "Hello there."
DEADLINE = 120.0  # seconds; what takes long is a machine that does much else
OLD_PAPERS = {
    "dataset": "letters",
    "audio": {"sample_rate": RATE, "quality": "tiny"},
    "espeak": {"voice": "en-us"},
    "language": {"code": "en-us"},  # as preprocess wrote it once
    "phoneme_type": "espeak",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voice of a checkpoint from before the languages were written in full."""
    voice, directory = test_voice.voice(), tmp_path_factory.mktemp("anna")
    checkpoints = Checkpoints(directory / "run", Keep())
    metadata = Metadata(voice.config, Position(), dict(voice.dataset) | OLD_PAPERS, {})
    checkpoints.save(
        1, TrainState(np.array(1, np.int32), {GENERATOR: voice.parameters}).to_dict(), metadata
    )
    checkpoints.close()
    path = directory / "voice" / "anna.onnx"
    with pytest.MonkeyPatch.context() as patch:
        # What JAX would say has tests of its own, and takes long to compile.
        patch.setattr(export, "compare", lambda *_: Agreement(0.0, 0, 0, 1, 1, finite=True))
        assert main([str(directory / "run"), str(path)]) == 0
    return path


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


def test_wyoming_lists_it_and_speaks(exported: Path, tmp_path: Path) -> None:
    command = ["wyoming_piper", "--voice", "anna", "--data-dir", str(exported.parent)]
    command += ["--uri", "tcp://127.0.0.1:0", "--noise-scale", "0", "--noise-w-scale", "0"]
    with serving(tmp_path / "log", *command) as port:
        (program,) = asyncio.run(described(port)).tts
        (voice,) = [voice for voice in program.voices if voice.name == "anna"]
        assert (voice.languages, voice.installed) == (["en_US"], True)
        assert voice.description == "anna (tiny)"
        for number, speaker in enumerate(("ann", "bob")):
            start, audio = asyncio.run(spoken(port, SynthesizeVoice("anna", speaker=speaker)))
            assert (start.rate, start.width, start.channels) == (RATE, 2, 1)
            assert_spoken(audio, exported, number)


# Piper's web server


def asked(port: int, page: str, question: dict[str, Any] | None = None) -> bytes:
    data = None if question is None else json.dumps(question).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{page}", data, kind)
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return answer.read()


def test_the_web_server_lists_it_and_speaks(exported: Path, tmp_path: Path) -> None:
    command = ["piper.http_server", "-m", "anna", "--data-dir", str(exported.parent)]
    command += ["--host", "127.0.0.1", "--port", "0", "--noise-scale", "0", "--noise-w-scale", "0"]
    with serving(tmp_path / "log", *command) as port:
        assert json.loads(asked(port, "info"))["voice"] == {
            "name": "anna",
            "language": "en-us",
            "num_speakers": 2,
        }
        (config,) = json.loads(asked(port, "voices")).values()
        assert config == json.loads(exported.with_name("anna.onnx.json").read_text())
        assert config["language"]["country_english"] == "United States"
        for number, speaker in enumerate(("ann", "bob")):
            answer = asked(port, "synthesize", {"text": TEXT, "speaker": speaker})
            with wave.open(io.BytesIO(answer)) as file:
                assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
                assert_spoken(file.readframes(file.getnframes()), exported, number)
