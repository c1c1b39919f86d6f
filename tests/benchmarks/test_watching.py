"""What looking at a run costs, from what the run told of it."""

from __future__ import annotations

from typing import Any

import pytest

from vits_jax.benchmarks import watching
from vits_jax.benchmarks.watching import figures
from vits_jax.commands.benchmark import main
from vits_jax.errors import RunFailed

# Looks after 10, 20, 100 and 200 steps; the first has no time before it to be a share of.
HISTORY = {
    "looking/Validation": [(10, 60.0), (20, 2.0), (100, 3.0), (200, 1.0)],
    "looking/saving": [(10, 1.0), (200, 2.0)],
    "looking/share": [(20, 0.5), (100, 0.03), (200, 0.015)],
    "validation/mel": [(10, 1.0), (20, 1.0), (100, 0.9), (200, 0.8)],
}


def test_the_first_two_looks_do_not_count() -> None:
    found = figures(HISTORY)
    assert found["looks"] == 2
    # 3 of 100 seconds, then 1 and 2 of saving of 200.
    assert found["share"] == pytest.approx(6 / 300)
    assert found["share_without_saving"] == pytest.approx(4 / 300)
    assert found["seconds"] == pytest.approx({"Validation": 2.0, "saving": 1.0})
    assert found["steps_between"] == 90


def test_too_few_looks() -> None:
    few = {name: points[:2] for name, points in HISTORY.items()} | {"looking/share": [(20, 0.5)]}
    with pytest.raises(RunFailed, match="--train-minutes"):
        figures(few)


def test_the_command_trains_with_its_defaults(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command)
        return type("Ended", (), {"returncode": 0})()

    monkeypatch.setattr(watching.subprocess, "run", run)
    monkeypatch.setattr(watching.journal, "history", lambda lines: HISTORY)
    argv = ["watching", "--quality", "demo", "--minutes", "0.2", "--train-minutes", "70"]
    assert main(argv) == 0
    ((_, module, name, *words),) = asked
    assert (module, name) == ("-m", "vits_jax.train")
    assert "--max-time=00:01:10:00" in words
    ours = [word for word in words if word.startswith(("--check", "--metrics"))]
    assert ours == ["--check-val-every-n-epoch=", "--checkpoint-epochs="], "no preset's own"
    assert "share" in capsys.readouterr().out
