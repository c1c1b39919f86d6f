"""`tools/torture.py`, shortened: processes that really die, with a step that compiles at once."""

from __future__ import annotations

import pytest

from tools.torture import FAULTS, inflict
from tools.torture_bench import Bench, state_digest

pytestmark = pytest.mark.slow

# In every training process: the tests' step, and time to be killed within one.
STAND_IN = """
import time
import pytest
from tests.runs import stand_in
from vits_jax.checkpoints.saving import Checkpoints
stand_in(pytest.MonkeyPatch())
saves = Checkpoints.save
def save(*arguments):
    time.sleep(0.1)
    saves(*arguments)
Checkpoints.save = save
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("torture"), before=STAND_IN, moment=0.4)
    bench.prepare()
    return bench


# The others (compiled programs, a disk of one's own) need the real step, or root.
@pytest.mark.parametrize(
    ("fault", "times"),
    [
        *(("kill", 3), ("kill-preparing", 1), ("kill-validating", 1), ("terminate", 1)),
        *(("flip", 30), ("flip-dataset", 2), ("clock", 1), ("second", 1), ("worker", 1)),
    ],
)
def test_a_fault_ends_well(bench: Bench, fault: str, times: int):
    row = inflict(fault, bench, seed=0, times=times)
    assert row.fault == FAULTS[fault][0]
    assert row.bad == 0, row
    assert row.times >= times, row


def test_another_state_is_told_apart(bench: Bench):
    """What the others rest on: one step less is another digest."""
    run_dir = bench.new()
    assert bench.train(run_dir, "--max_steps=11").ends() == 0
    assert state_digest(run_dir) != bench.whole
