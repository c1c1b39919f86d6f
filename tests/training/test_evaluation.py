"""How often a run is looked at, where its user does not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import small, stand_in, write_dataset
from vits_jax.training import journal
from vits_jax.training.evaluation import SHARE, Pace
from vits_jax.training.loop import train


class Clock:
    """Of a run that only waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def looks(pace: Pace, clock: Clock, epoch: float, costs: list[float], epochs: int) -> list[int]:
    """The epochs after which a run looks; each look costs the next of `costs`, then the last."""
    found = []
    for number in range(1, epochs + 1):
        clock.now += epoch
        if pace.due(last=False):
            with pace.look():
                clock.now += costs[min(len(found), len(costs) - 1)]
            found.append(number)
    return found


@pytest.mark.parametrize(("epoch", "cost"), [(0.65, 4.0), (850.0, 45.0), (300.0, 1.0)])
def test_looking_takes_its_share_at_most(epoch: float, cost: float) -> None:
    clock = Clock()
    pace = Pace(None, clock=clock)
    found = looks(pace, clock, epoch, [90.0, cost], 3000)
    assert found[:2] == [1, 2]
    after = found[2:]
    assert after, "it never looked again"
    share = cost * len(after) / (cost * len(after) + epoch * (after[-1] - 2))
    assert share <= SHARE
    # And not much less: an epoch has to end first.
    gap = after[1] - after[0]
    assert (gap - 1) * epoch < cost * (1 / SHARE - 1)


def test_a_user_says_how_often() -> None:
    clock = Clock()
    assert looks(Pace(1, clock=clock), clock, 0.1, [60.0], 5) == [1, 2, 3, 4, 5]


def test_how_a_run_ends_is_looked_at() -> None:
    clock = Clock()
    pace = Pace(None, clock=clock)
    assert looks(pace, clock, 0.1, [60.0], 5) == [1, 2]
    assert pace.due(last=True)


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epochs take milliseconds: two looks, and the last."""
    stand_in(monkeypatch)
    monkeypatch.setattr("vits_jax.training.evaluation.SHARE", 1e-9)
    config = small(
        write_dataset(tmp_path / "data"),
        tmp_path / "run",
        max_epochs=7,
        check_val_every_n_epoch=None,
        validation_split=0.3,
    )
    assert config.run.check_val_every_n_epoch is None
    train(config)
    points = journal.series(journal.read(tmp_path / "run"), "validation/mel")
    validated = [step for step, _ in points]
    per_epoch = validated[0]
    assert validated == [per_epoch, 2 * per_epoch, 7 * per_epoch]
