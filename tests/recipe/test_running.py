"""A command in a process of its own: its code, its output, and the signals that it hears."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from vits_jax.recipe import running
from vits_jax.recipe.running import Commands, shown

# It ends at the second signal, or half a second after the first; and tells how many it heard.
HEARS = """
import signal, sys, time
from pathlib import Path
heard, out = [], Path(sys.argv[1])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(number))
(out / "ready").touch()
while not heard:
    time.sleep(0.01)
time.sleep(0.5)
(out / "heard").write_text(repr([int(number) for number in heard]))
sys.exit(128 + heard[0])
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch):
    """Instead of ``vits-jax``: Python that runs what it is given."""
    monkeypatch.setattr(running, "PROGRAM", (sys.executable, "-c"))


def test_a_command_is_shown_as_it_is_typed():
    words = ["check", "my recordings", "--json"]
    assert shown(words, Path("a b")) == "vits-jax check 'my recordings' --json > 'a b'"


def test_codes_and_output(program, tmp_path: Path):
    out, commands = tmp_path / "below" / "out", Commands()
    code, seconds = commands.run(["print('said')"], out, lambda seconds: None)
    assert (code, out.read_text()) == (0, "said\n")
    assert 0 < seconds < 60
    code, _ = commands.run(["print('else'); raise SystemExit(3)"], out, lambda seconds: None)
    assert (code, out.read_text()) == (3, "said\n"), "whole or not at all"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    code, _ = commands.run(["import os; os.kill(os.getpid(), 15)"], None, lambda seconds: None)
    assert code == 143


PASSED_ON = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}


@pytest.mark.parametrize(("number", "hears"), PASSED_ON.items())
def test_a_signal_reaches_it_once_even_from_a_terminal(number, hears, program, tmp_path: Path):
    """A terminal's Ctrl-C goes to all of a group of processes, of which it is none."""

    def interrupt() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    commands = Commands()
    threading.Thread(target=interrupt, daemon=True).start()
    with commands.heeding():
        code, _ = commands.run([HEARS, str(tmp_path)], None, lambda seconds: None)
    assert signal.getsignal(number) == before
    assert (commands.asked, code) == (number, 128 + hears)
    assert (tmp_path / "heard").read_text() == f"[{int(hears)}]"


def test_it_is_none_of_this_groups_processes(program, tmp_path: Path):
    words = [f"import os; print(os.getpgrp() != {os.getpgrp()})"]
    Commands().run(words, tmp_path / "out", lambda seconds: None)
    assert (tmp_path / "out").read_text() == "True\n"


def test_the_time_is_told_while_it_runs(program, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "_TICK", 0.05)
    told: list[float] = []
    Commands().run(["import time; time.sleep(0.5)"], None, told.append)
    assert told
    assert told == sorted(told)
