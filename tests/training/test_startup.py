"""How long a start takes, and in which parts."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from tests.runs import flags, read_events, small, stand_in, write_dataset
from vits_jax.commands.train import main
from vits_jax.training import loop
from vits_jax.training.loop import train
from vits_jax.training.start import Start
from vits_jax.training.timeline import Timeline, parse

PARTS = ["devices", "data", "state", "first batch", "compiling", "step"]


def test_the_first_step_says_in_one_line_what_was_before_it(tmp_path: Path, monkeypatch, caplog):
    stand_in(monkeypatch)
    caplog.set_level(logging.INFO)
    run_dir = tmp_path / "run"
    argv = flags(write_dataset(tmp_path / "data"), run_dir, max_steps=3)
    assert main(argv) == 0
    (line,) = [text for text in caplog.messages if text.startswith("first step after")]
    told = parse(f"before\n{line}\nafter")
    assert told is not None
    seconds, parts = told
    assert list(parts) == ["imports", "cache", *PARTS, "tracing"]
    parts.pop("tracing")  # beside the others
    assert seconds == pytest.approx(sum(parts.values()), abs=0.5)
    assert caplog.messages.index(line) < caplog.messages.index(
        "done after 3 steps: epoch 1, batch 0 of 3"
    )
    scalars = {v.tag: v.simple_value for e in read_events(run_dir) for v in e.summary.value}
    assert scalars["startup/first_step"] == pytest.approx(seconds, abs=0.06)
    assert scalars["startup/first_batch"] == pytest.approx(parts["first batch"], abs=0.06)


def test_a_run_that_continues_says_it_too_and_one_without_steps_does_not(
    tmp_path: Path, monkeypatch, caplog
):
    stand_in(monkeypatch)
    caplog.set_level(logging.INFO)
    dataset = write_dataset(tmp_path / "data")
    for steps, lines in ((0, 0), (2, 1), (4, 2), (4, 2)):
        train(small(dataset, tmp_path / "run", max_steps=steps))
        assert caplog.text.count("first step after") == lines


def test_the_step_is_asked_for_before_the_state_is_made(tmp_path: Path, monkeypatch):
    stand_in(monkeypatch)
    order: list[str] = []
    ask, make = loop.compile_ahead, Start.state
    monkeypatch.setattr(loop, "compile_ahead", lambda *own: (order.append("ask"), ask(*own))[1])
    monkeypatch.setattr(Start, "state", lambda *own: (order.append("make"), make(*own))[1])
    train(small(write_dataset(tmp_path / "data"), tmp_path / "run", max_steps=1))
    assert order == ["ask", "make"]


def test_parts_sum_up_and_begin_before_the_timeline():
    timeline = Timeline(since=time.time() - 1000)
    timeline.done("imports")
    timeline.done("data")
    timeline.done("imports")
    assert list(timeline.parts) == ["imports", "data"]
    assert 1000 <= timeline.seconds < 1500, "no second is counted twice"
    assert Timeline.of_process().parts == {}
    assert parse("no line") is None
