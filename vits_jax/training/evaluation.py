"""Looking at a run between epochs: evaluators, each with its period.

An evaluator turns a state into numbers and sounds; where they go is the caller's affair
(`outputs`). The run holds a list of them: add one in `loop`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vits_jax.config import RunConfig
from vits_jax.state import Position, TrainState
from vits_jax.training.processes import ALONE, Processes
from vits_jax.training.stopping import Stop

SHARE = 0.025
"""Of a run's time, what looking at it may take where nobody said how often to look."""


@dataclass(frozen=True)
class Sound:
    """Speech to listen to: float32 ``audio [samples]``, under a name.

    ``file`` is its place in the run's ``samples/STEP``, without an ending; empty: it has none.
    """

    name: str
    audio: np.ndarray
    sample_rate: int
    file: str = ""


@dataclass(frozen=True)
class Picture:
    """Something to look at: uint8 ``image [height, width, 3]``; ``file`` as of a `Sound`."""

    name: str
    image: np.ndarray
    file: str = ""


@dataclass(frozen=True)
class Histogram:
    """Numbers ``values [n]`` whose spread is of interest."""

    name: str
    values: np.ndarray


Shown = Sound | Picture | Histogram | Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluator found.

    Attributes:
        scalars: numbers by name, as in TensorBoard; more may come among what is shown.
        shown: speech, pictures and the like; made when they are asked for.
        keep_by: numbers that tell how good the checkpoint is, by the names that `--keep-best-by`
            calls them: lower is better, so an evaluator negates what should be high.
    """

    scalars: Mapping[str, float] = field(default_factory=dict)
    shown: Iterable[Shown] = ()
    keep_by: Mapping[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    """Something that judges a state.

    Attributes:
        every: epochs between two evaluations.
    """

    @property
    def every(self) -> int: ...

    def ahead(self, state: TrainState) -> None:
        """Have compiled, in the background, what it will need; `state` is only looked at."""

    def __call__(self, state: TrainState, position: Position, stop: Stop) -> Evaluation:
        """Judge; ends early, with what it has, once `stop` is asked."""


def due(evaluator: Evaluator, position: Position) -> bool:
    """Whether it is, at this position."""
    return position.batch == 0 and position.epoch % evaluator.every == 0


def period(run: RunConfig) -> int:
    """Of the evaluators of a run, in epochs; `Pace` leaves some out where nobody said how often."""
    return 1 if run.fast_dev_run else run.check_val_every_n_epoch or 1


class Pace:
    """How often a run is looked at: as its user says, or so seldom that it costs little.

    An epoch of an hour of speech takes minutes on a processor and less than a second on a GPU,
    while validating, speaking and drawing take seconds on both.

    Args:
        every: epochs, where the user said so: then the evaluators' own periods are all there is.
        processes: of the run; the first one's clock counts.
        clock: seconds.
    """

    def __init__(
        self,
        every: int | None,
        processes: Processes = ALONE,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._every, self._processes, self._clock = every, processes, clock
        self._looks = 0
        self._cost = self._end = 0.0  # of the last look

    def due(self, *, last: bool) -> bool:
        """Whether to look now, at the end of an epoch; all processes ask at once.

        Args:
            last: whether the run ends here: how it ended is always looked at.
        """
        if self._every is not None or last:
            return True
        return self._processes.of_first(lambda: "yes" if self._rested() else "no") == "yes"

    @contextlib.contextmanager
    def look(self) -> Iterator[None]:
        """Around a look."""
        start = self._clock()
        yield
        self._looks += 1
        self._end = self._clock()
        self._cost = self._end - start

    def _rested(self) -> bool:
        # The first one waits for the compiler; what a look costs is known after the second.
        if self._looks < 2:
            return True
        return self._clock() - self._end >= self._cost * (1 / SHARE - 1)
