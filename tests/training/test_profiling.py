"""``--profile N``: a trace in the run directory, and a run that goes on without one."""

from __future__ import annotations

from pathlib import Path

import jax

from tests.runs import small, stand_in, write_dataset
from vits_jax.training.loop import train


def test_a_trace_of_some_steps(tmp_path: Path, monkeypatch, caplog):
    stand_in(monkeypatch)
    dataset, run_dir = write_dataset(tmp_path / "data"), tmp_path / "run"
    caplog.set_level("INFO")
    assert train(small(dataset, run_dir, max_epochs=3, profile=2)).step > 5
    assert list((run_dir / "plugins" / "profile").rglob("*.xplane.pb"))
    assert f"profile: {run_dir}/plugins/profile" in caplog.text


def test_no_trace_is_a_warning(tmp_path: Path, monkeypatch, caplog):
    stand_in(monkeypatch)

    def refuse(directory: str) -> None:
        raise RuntimeError("only one profile may be run at a time")

    monkeypatch.setattr(jax.profiler, "start_trace", refuse)
    dataset = write_dataset(tmp_path / "data")
    assert train(small(dataset, tmp_path / "run", max_epochs=3, profile=2)).step > 5
    assert caplog.text.count("--profile: no trace: only one profile") == 1
