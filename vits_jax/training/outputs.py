"""What a run writes: checkpoints, events, progress, a profile."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.store import Metadata
from vits_jax.config import Config, RunConfig
from vits_jax.errors import RunFailed
from vits_jax.state import Position, TrainState
from vits_jax.training.appending import Appended
from vits_jax.training.evaluation import Evaluator, Histogram, Picture, Shown, Sound
from vits_jax.training.judging import Judging
from vits_jax.training.loggers import Records
from vits_jax.training.mesh import local
from vits_jax.training.processes import ALONE, Processes
from vits_jax.training.profiling import Profiler
from vits_jax.training.progress import Progress, advice
from vits_jax.training.samples import Samples
from vits_jax.training.speech_metrics import SpeechMetrics, names_of
from vits_jax.training.stopping import Stop
from vits_jax.training.timeline import Timeline

_LOGGER = logging.getLogger(__name__)

LOG = "train.log"
"""In the run directory: a line an epoch, names and values."""
OF_AN_EPOCH = 1 / 2  # of checkpoint_minutes: at the end of an epoch a save is due sooner


class Saves:
    """When a checkpoint is due."""

    def __init__(self, run: RunConfig):
        self._run, self._last = run, time.monotonic()

    def within_epoch(self, step: int) -> bool:
        """After a batch that does not end an epoch."""
        minutes = self._run.checkpoint_minutes
        return _divides(self._run.checkpoint_steps, step) or bool(minutes and self._old(minutes))

    def at_end(self, epoch: int, step: int, *, looked_at: bool = True) -> bool:
        """After the last batch of an epoch, when so many are finished.

        By default a save every epoch, but for short ones: it costs gigabytes of writing. Then it
        waits for an epoch that is looked at: of a checkpoint that nobody judged nobody knows
        whether it is the best.

        Args:
            looked_at: whether the run is, after this epoch.
        """
        every, for_ever = self._run.checkpoint_epochs, self._run.keep_epochs
        by_epochs = every is None or _divides(every, epoch)
        minutes = self._run.checkpoint_minutes * (OF_AN_EPOCH if looked_at else 1)
        old = every is not None or self._old(minutes)
        due = (by_epochs and old) or _divides(for_ever, epoch)
        return due or _divides(self._run.checkpoint_steps, step)

    def saved(self) -> None:
        """Count from here."""
        self._last = time.monotonic()

    def _old(self, minutes: float) -> bool:
        return time.monotonic() - self._last >= 60 * minutes


def _flat(config: Config) -> dict[str, Any]:
    """Its values, as ``section/name``."""
    sections = config.to_dict().items()
    return {f"{section}/{name}": v for section, own in sections for name, v in own.items()}


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
        device: jax.Device | None = None,
        padding: float | None = None,
    ):
        run = config.run
        self._run, self._saves, self._alone = run, Saves(run), processes.alone
        if not processes.first:
            run_dir = None  # the first one writes
        self._keep = Keep.of(run)
        self._checkpoints = None if run_dir is None else Checkpoints(run_dir, self._keep)
        self._late = names_of(run)  # what comes later than its step
        self._asked: set[int] = set()  # evaluators that had their turn, by `id` ...
        self._given: set[str] | None = set()  # ... and what they gave to keep the best by
        self.records = Records(run_dir, step, run.logger)
        self.records.parameters(_flat(config))
        self._samples = None if run_dir is None else Samples(run_dir)
        self._log = None if run_dir is None else Appended(run_dir, lambda: LOG, "lines")
        total = None if math.isinf(end) else int(end)
        remedy = advice(config.data.data_on_device)
        bar = processes.first and sys.stderr.isatty()
        self.progress = Progress(
            *(step, total, run.log_every_n_steps, self.records, remedy, bar, device, padding)
        )
        self.profiler = Profiler(run_dir, run.profile)
        self._looked: dict[str, float] = {}  # seconds of looking at the run, by what looked ...
        self._since = 0.0  # ... since then; 0 where nobody did yet

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
            self.records.close()
            if self._log is not None:
                self._log.close()

    def started(self, timeline: Timeline, step: int) -> None:
        """The first step is done: say how long that took."""
        _LOGGER.info("%s", timeline)
        seconds = {"first_step": timeline.seconds, **timeline.parts}
        self.records.scalars(
            step, {f"startup/{name.replace(' ', '_')}": value for name, value in seconds.items()}
        )

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._checkpoints is not None and not self._checkpoints.saved()

    def due(self, position: Position, *, looked_at: bool = False) -> bool:
        """Whether a checkpoint is, at this position; `looked_at`: whether the run is, too."""
        if self._checkpoints is None:
            return False
        if position.batch:
            return self._saves.within_epoch(position.step)
        return self._saves.at_end(position.epoch, position.step, looked_at=looked_at)

    def save(self, state: TrainState, metadata: Metadata) -> None:
        """Save a checkpoint, if this step has none."""
        if self._checkpoints is not None:
            with self._looking("saving"):
                # Each process has all of it: the first saves by itself, and waits for none.
                held = state.to_dict() if self._alone else jax.device_get(local(state.to_dict()))
                self._checkpoints.save(metadata.position.step, held, metadata)
            self._saves.saved()

    def evaluate(
        self, evaluator: Evaluator, state: TrainState, position: Position, stop: Stop
    ) -> None:
        """Evaluate, into the events; the checkpoint of this step learns how good it is."""
        with self._looking(type(evaluator).__name__):
            found = evaluator(state, position, stop)
            self.records.scalars(position.step, found.scalars)
            if self._checkpoints is not None and found.keep_by:
                self._checkpoints.attach(position.step, found.keep_by)
            self._asked.add(id(evaluator))
            if self._given is not None:
                self._given.update(found.keep_by)
            for each in found.shown:
                self._show(position.step, each)

    def evaluated(self, evaluators: Sequence[Evaluator], stop: Stop) -> None:
        """After some of them: once each had its turn, warn if none tells what is best, once."""
        given, keep = self._given, self._keep
        if given is None or stop.asked or not self._asked.issuperset(map(id, evaluators)):
            return
        self._given = None
        # Without a validation set there is nothing, of which nobody spoke.
        expected = (given or keep.by != RunConfig.keep_best_by) and keep.by not in self._late
        if self._checkpoints is not None and keep.best and keep.by not in given and expected:
            _LOGGER.warning(
                "--keep-best-by %s: no evaluation gives such a number (%s): no checkpoint is kept "
                "as the best",
                *(keep.by, f"they give {', '.join(sorted(given))}" if given else "they give none"),
            )

    def epoch(self) -> None:
        """An epoch is over: a line in the run's log."""
        line = self.progress.epoch()
        if self._log is not None and line:
            self._log.add([f"{line}\n".encode()])

    def judge(self, step: int, judging: Judging | None, stop: Stop) -> None:
        """What the evaluations so far say of the run, if somebody is to judge it."""
        if judging is not None:
            with self._looking("judging"):
                self.progress.verdict = judging(step, self.records, stop).kind
                self._take_scores(judging.metrics)
        now = time.monotonic()
        seconds, total = sum(self._looked.values()), now - self._since
        shares = {"looking/share": seconds / total} if self._since else {}
        self.records.scalars(step, {f"looking/{n}": s for n, s in self._looked.items()} | shares)
        self._since, self._looked = now, {}

    @contextlib.contextmanager
    def _looking(self, what: str) -> Iterator[None]:
        """Around what looks at the run: how long that took is told."""
        start = time.monotonic()
        with self.progress.other_work():
            yield
        self._looked[what] = self._looked.get(what, 0.0) + time.monotonic() - start

    def ended(self, step: int, judging: Judging | None) -> None:
        """The run is at its end, and was not interrupted."""
        if judging is not None:
            judging.ended(step, self.records)
            self._take_scores(judging.metrics)

    def chooses(self, judging: Judging | None) -> bool:
        """Whether what is said at the next look decides which checkpoint is the best."""
        by_ear = bool(self._keep.best) and self._keep.by in self._late
        return by_ear and judging is not None and judging.metrics.next

    def _take_scores(self, metrics: SpeechMetrics) -> None:
        """Numbers that come later than their step: it is kept until they are there."""
        if self._checkpoints is None:
            return
        for step, numbers in metrics.scores():
            self._checkpoints.attach(step, {n: v for n, v in numbers.items() if n in self._late})
        self._checkpoints.await_numbers(metrics.scoring)

    def _show(self, step: int, shown: Shown) -> None:
        if isinstance(shown, Sound):
            self.records.audio(step, shown.name, shown.audio, shown.sample_rate)
        elif isinstance(shown, Picture):
            self.records.image(step, shown.name, shown.image)
        elif isinstance(shown, Histogram):
            self.records.histogram(step, shown.name, shown.values)
        else:
            self.records.scalars(step, shown)
        if self._samples is not None and isinstance(shown, Sound | Picture) and shown.file:
            self._samples.keep(step, shown)
