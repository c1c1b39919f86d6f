"""The newcomer's page, docs/ten-steps.md, as its reader would follow it: at the size of a demo."""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.commands.test_voice import RATE, network, write_base, write_recordings
from vits_jax.config import write_yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ten-steps.md"
BLOCK = re.compile(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
DEADLINE = 240.0  # seconds; what takes long is a machine that does much else


def blocks() -> list[tuple[str, str, str]]:
    """Language, title and text of each block of the page."""
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def write_config(path: Path) -> None:
    """What the voice is trained with: sizes of the base, small discriminators."""
    write_yaml(network().replaced({"discriminator_width": 16, "segment_size": 4096}), path)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def replaced(settings: str, values: dict[str, object]) -> str:
    """The page's settings with other values, each of which has to be there."""
    for name, value in values.items():
        settings, count = re.subn(
            rf'^{name}=("[^"]*"|\S+)', f'{name}="{value}"', settings, flags=re.M
        )
        assert count == 1, name
    return settings


@contextmanager
def second_terminal(script: str, port: int, folder: Path, env: dict[str, str]) -> Iterator[None]:
    """What the page says to leave running, from when on it listens."""
    log = folder / "server.log"
    command = ["bash", "-c", script]
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=file) as process,
    ):
        try:
            deadline = time.monotonic() + DEADLINE
            while True:
                assert process.poll() is None, log.read_text()
                with socket.socket() as asking:
                    if asking.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield
        finally:
            process.kill()


@pytest.mark.slow
def test_the_page_leads_from_recordings_to_a_wyoming_client(tmp_path: Path) -> None:
    write_recordings(tmp_path / "mine", 10)
    write_base(tmp_path / "base.onnx")
    write_config(tmp_path / "small.yaml")
    port = free_port()
    small = {"RECORDINGS": "mine", "BASE": "base.onnx", "RATE": RATE, "PORT": port}
    # What a published voice lacks is not fitted: that takes 150 steps.
    small["TRAIN"] = "--config small.yaml --batch-size 2 --max_steps 2 --recover off"
    env = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"

    settings, parts, server = None, [], ""
    for language, title, text in blocks():
        if title == "install":
            # The tests' environment has what it installs.
            for name in ("vits_jax", "wyoming-piper", "Resemblyzer"):
                assert name in text
                importlib.metadata.version(name)
        elif title == "the second terminal":
            server = text.strip()
        elif language == "python":
            (tmp_path / title).write_text(text)
        elif settings is None:
            settings = replaced(text, small)
        else:
            assert language == "sh"
            parts.append(text)
    assert settings is not None
    assert server
    *before, asks = parts

    def follow(*commands: str) -> str:
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", "".join([settings, *commands])],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    follow(*before)
    # `run/report.html` wants a validation: tests/training/test_run_page.py has that.
    for path in ("check.html", "out/0.wav", "evaluation.html", "piper.wav"):
        assert (tmp_path / path).is_file(), path

    with second_terminal(f"{settings}exec {server}", port, tmp_path, env):
        assert "anna" in follow(asks).partition("installed:")[2].split()
    with wave.open(str(tmp_path / "hello.wav")) as file:
        assert file.getframerate() == RATE
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    assert len(samples) > RATE // 4
    assert np.abs(samples.astype(np.int32)).max() > 1000
