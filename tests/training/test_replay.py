"""A run that breaks for real, and the tool that repeats its last step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import REAL, small, write_dataset
from tools import replay
from vits_jax.errors import RunFailed
from vits_jax.training.loop import train
from vits_jax.training.skipping import read_dump

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real step")]


def test_the_dump_repeats_the_step_to_the_last_bit(tmp_path: Path, capsys):
    dataset = write_dataset(tmp_path / "data")
    run_dir = tmp_path / "run"
    # One update of such a rate, and the next ones have no numbers.
    broken = {"learning_rate": 1e20, "max_skipped_updates": 2} | REAL
    with pytest.raises(RunFailed, match="2 updates in a row") as failed:
        train(small(dataset, run_dir, **broken))
    (path,) = (run_dir / "dumps").iterdir()
    assert str(path) in str(failed.value)
    dump = read_dump(path)
    assert replay.main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"step {dump.about['step']} on" in shown
    assert " was " not in shown, "another value than in the run"
    assert all(f"  {name} " in shown for name in ("loss_g", "grad_norm_d"))
    assert shown.count("not finite: ") == len(dump.about["utterances"])
    assert replay.main([str(tmp_path / "absent.npz")]) == 2
