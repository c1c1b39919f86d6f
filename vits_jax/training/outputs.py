"""What a run writes: checkpoints, events, progress, a profile."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.store import Metadata
from vits_jax.config import Config, RunConfig
from vits_jax.errors import RunFailed
from vits_jax.state import Position, TrainState
from vits_jax.training.evaluation import Evaluator
from vits_jax.training.events import Events
from vits_jax.training.mesh import local
from vits_jax.training.processes import ALONE, Processes
from vits_jax.training.profiling import Profiler
from vits_jax.training.progress import Progress, advice
from vits_jax.training.stopping import Stop
from vits_jax.training.timeline import Timeline

_LOGGER = logging.getLogger(__name__)

OF_AN_EPOCH = 1 / 2  # of checkpoint_minutes: at the end of an epoch a save is due sooner


class Saves:
    """When a checkpoint is due."""

    def __init__(self, run: RunConfig):
        self._run, self._last = run, time.monotonic()

    def within_epoch(self, step: int) -> bool:
        """After a batch that does not end an epoch."""
        minutes = self._run.checkpoint_minutes
        return _divides(self._run.checkpoint_steps, step) or bool(minutes and self._old(minutes))

    def at_end(self, epoch: int, step: int) -> bool:
        """After the last batch of an epoch, when so many are finished.

        By default a save every epoch, but for short ones: it costs gigabytes of writing.
        """
        every, for_ever = self._run.checkpoint_epochs, self._run.keep_epochs
        by_epochs = every is None or _divides(every, epoch)
        old = every is not None or self._old(self._run.checkpoint_minutes * OF_AN_EPOCH)
        due = (by_epochs and old) or _divides(for_ever, epoch)
        return due or _divides(self._run.checkpoint_steps, step)

    def saved(self) -> None:
        """Count from here."""
        self._last = time.monotonic()

    def _old(self, minutes: float) -> bool:
        return time.monotonic() - self._last >= 60 * minutes


def _divides(every: int | None, count: int) -> bool:
    return every is not None and count % every == 0


class Outputs:
    """All that a run writes; nothing in a fast_dev_run.

    Leaving the context waits for the last checkpoint, before anything else could fail.
    """

    def __init__(
        self,
        run_dir: Path | None,
        config: Config,
        step: int,
        end: float,
        processes: Processes = ALONE,
    ):
        run = config.run
        self._run, self._saves, self._alone = run, Saves(run), processes.alone
        if not processes.first:
            run_dir = None  # the first one writes
        self._keep = Keep.of(run)
        self._checkpoints = None if run_dir is None else Checkpoints(run_dir, self._keep)
        self._asked: set[int] = set()  # evaluators that had their turn, by `id` ...
        self._given: set[str] | None = set()  # ... and what they gave to keep the best by
        self.events = Events(run_dir, step)
        total = None if math.isinf(end) else int(end)
        remedy = advice(config.data.data_on_device)
        bar = processes.first and sys.stderr.isatty()
        self.progress = Progress(step, total, run.log_every_n_steps, self.events, remedy, bar)
        self.profiler = Profiler(run_dir, run.profile)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if self._checkpoints is not None:
                self._checkpoints.close()
        except RunFailed:
            if kind is None:  # else it is logged, and what ended the run is the news
                raise
        finally:
            self.profiler.close()
            self.progress.write()
            self.progress.close()
            self.events.close()

    def started(self, timeline: Timeline, step: int) -> None:
        """The first step is done: say how long that took."""
        _LOGGER.info("%s", timeline)
        seconds = {"first_step": timeline.seconds, **timeline.parts}
        self.events.scalars(
            step, {f"startup/{name.replace(' ', '_')}": value for name, value in seconds.items()}
        )

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._checkpoints is not None and not self._checkpoints.saved()

    def due(self, position: Position) -> bool:
        """Whether a checkpoint is, at this position."""
        if self._checkpoints is None:
            return False
        if position.batch:
            return self._saves.within_epoch(position.step)
        return self._saves.at_end(position.epoch, position.step)

    def save(self, state: TrainState, metadata: Metadata) -> None:
        """Save a checkpoint, if this step has none."""
        if self._checkpoints is not None:
            with self.progress.other_work():
                # Each process has all of it: the first saves by itself, and waits for none.
                held = state.to_dict() if self._alone else jax.device_get(local(state.to_dict()))
                self._checkpoints.save(metadata.position.step, held, metadata)
            self._saves.saved()

    def evaluate(
        self, evaluator: Evaluator, state: TrainState, position: Position, stop: Stop
    ) -> None:
        """Evaluate, into the events; the checkpoint of this step learns how good it is."""
        with self.progress.other_work():
            found = evaluator(state, position, stop)
            self.events.scalars(position.step, found.scalars)
            if self._checkpoints is not None and found.keep_by:
                self._checkpoints.attach(position.step, found.keep_by)
            self._asked.add(id(evaluator))
            if self._given is not None:
                self._given.update(found.keep_by)
            for sound in found.sounds:
                self.events.audio(position.step, sound.name, sound.audio, sound.sample_rate)

    def evaluated(self, evaluators: Sequence[Evaluator], stop: Stop) -> None:
        """After some of them: once each had its turn, warn if none tells what is best, once."""
        given, keep = self._given, self._keep
        if given is None or stop.asked or not self._asked.issuperset(map(id, evaluators)):
            return
        self._given = None
        # Without a validation set there is nothing, of which nobody spoke.
        expected = given or keep.by != RunConfig.keep_best_by
        if self._checkpoints is not None and keep.best and keep.by not in given and expected:
            _LOGGER.warning(
                "--keep-best-by %s: no evaluation gives such a number (%s): no checkpoint is kept "
                "as the best",
                *(keep.by, f"they give {', '.join(sorted(given))}" if given else "they give none"),
            )
