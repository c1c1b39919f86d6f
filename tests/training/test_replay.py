"""A run that breaks for real, and the tool that repeats its last step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.runs import REAL, flags, write_dataset
from tools import replay
from vits_jax.commands.train import main
from vits_jax.training.skipping import read_dump

pytestmark = pytest.mark.slow


def test_it_is_exit_code_1_and_the_dump_repeats_the_step_to_the_last_bit(tmp_path: Path, capsys):
    dataset = write_dataset(tmp_path / "data")
    run_dir = tmp_path / "run"
    # One update of such a rate, and the next ones have no numbers.
    broken = {"learning_rate": 1e20, "max_skipped_updates": 2} | REAL
    assert main(flags(dataset, run_dir, **broken)) == 1
    (path,) = (run_dir / "dumps").iterdir()
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"failed: step 3: 2 updates in a row were skipped, not finite: .*nan", last)
    assert str(path) in last
    assert [step.name for step in (run_dir / "checkpoints").iterdir()] == ["3"]
    dump = read_dump(path)
    assert replay.main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"step {dump.about['step']} on" in shown
    assert " was " not in shown, "another value than in the run"
    assert all(f"  {name} " in shown for name in ("loss_g", "grad_norm_d"))
    assert shown.count("not finite: ") == len(dump.about["utterances"])
    assert replay.main([str(tmp_path / "absent.npz")]) == 2
