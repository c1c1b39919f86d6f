"""Saving the checkpoints of a run, in the background, and keeping the right ones.

A step is written under another name, gets its digests, and then its own name: a step
that is there is whole. Only then are older ones removed, so that the last good checkpoint
outlives every failure of the next. A save that fails (a full disk) is said and tried again
at the next occasion: training does not depend on it.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint.experimental.v1._src.saving import execution

from vits_jax.checkpoints import digests
from vits_jax.checkpoints.store import (
    DIRECTORY,
    METRICS,
    Metadata,
    held,
    metrics_of,
    newest_whole,
    step_directories,
)
from vits_jax.config import RunConfig
from vits_jax.errors import RunFailed, UserError

_LOGGER = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"
_NO_DEADLINE = 10**9  # seconds
_WRITTEN_AT_ONCE = 1 << 26  # bytes; the largest tensor of the presets has 21 MB


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay.

    Attributes:
        newest: so many of the newest; -1: all.
        best: and so many of the best.
        epochs: and, for ever, those at the end of every so many epochs.
        by: the metric that tells how good one is; lower is better.
    """

    newest: int = 3
    best: int = 1
    epochs: int | None = None
    by: str = RunConfig.keep_best_by

    @classmethod
    def of(cls, run: RunConfig) -> Keep:
        """As the flags say."""
        best, by = run.keep_best, run.keep_best_by
        best, by = (1, best) if isinstance(best, str) else (best, by)
        return cls(run.keep_newest, best, run.keep_epochs, by)

    def ranked(self, metrics: Mapping[int, Mapping[str, float]]) -> list[int]:
        """The steps of which the metric is known, the best first."""
        known = {step: of_step.get(self.by, math.inf) for step, of_step in metrics.items()}
        return sorted(filter(lambda s: math.isfinite(known[s]), known), key=known.__getitem__)

    def kept(self, steps: Sequence[int], metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """Those of `steps` (ascending) that stay, by the metrics and ``epochs`` of each."""
        if self.newest < 0:
            return set(steps)
        best = self.ranked({step: metrics[step] for step in steps})[: self.best]
        ends = [s for s in steps if self.epochs and _at_end(metrics[s].get("epochs"), self.epochs)]
        return {*steps[-self.newest :], *best, *ends}


def _at_end(finished: float | None, epochs: int) -> bool:
    return finished is not None and finished % epochs == 0


class Checkpoints:
    """The checkpoints of one run; the caller holds the lock of its directory.

    Attributes:
        directory: that holds the steps.
        newest: the newest step that is saved or being saved.
    """

    def __init__(self, run_dir: Path, keep: Keep, little_by_little: bool = False):
        """With `little_by_little`, states are not copied: they take hardly more memory than
        they have, and must not change before `close`."""
        self.directory = (run_dir / DIRECTORY).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._remove_unfinished()
        self.newest = max(self.steps(), default=None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._settings = ocp.Context()
        # In the background, a directory that cannot be made would be waited for.
        self._settings.asynchronous.create_directories_asynchronously = False
        # Orbax reads the clock of the wall for it, which may jump.
        self._settings.asynchronous.timeout_secs = _NO_DEADLINE
        if jax.process_count() > 1:
            _by_itself(self._settings)
        if little_by_little:
            self._settings.memory.deepcopy_host_arrays = False
            self._settings.memory.write_concurrent_bytes = _WRITTEN_AT_ONCE
        self._saving: Future[None] | None = None
        self._failure: str | None = None
        self._awaiting: int | None = None

    def steps(self) -> list[int]:
        """The steps there are, oldest first."""
        return [int(directory.name) for directory in step_directories(self.directory)]

    def save(self, step: int, state: Any, metadata: Metadata) -> None:
        """Save in the background; returns when `state` is copied and may be overwritten.

        A failure is logged, this one's when it is known: at the next call of any method.
        A step that is there already is not saved again.
        """
        self.settle()
        if step == self.newest:
            return
        if self._failure is not None:
            self._remove_unfinished()  # writers of a save that fails go on for a moment
        self.newest = step
        unfinished = self.directory / f"{step}{_UNFINISHED}"
        with self._settings:
            copied = held(ocp.save_async, unfinished, state, custom_metadata=metadata.to_json())
        self._saving = self._thread.submit(self._finish, step, copied)

    def attach(self, step: int, metrics: Mapping[str, float]) -> None:
        """Put more numbers beside a step, if it is there: they decide what is kept."""
        self._thread.submit(self._attach, step, dict(metrics))

    def await_numbers(self, step: int | None) -> None:
        """Keep a step, of which more numbers will come, until another is named, or None."""
        self._awaiting = step

    def saved(self) -> bool:
        """Whether the last save has ended, one way or the other."""
        return self._saving is None or self._saving.done()

    def settle(self) -> None:
        """Wait for the last save; its failure is logged and remembered."""
        if self._saving is None:
            return
        error = self._saving.exception()
        self._saving = None
        self._failure = None if error is None else _reason(error)
        if error is not None:
            self._remove_unfinished()
            step, self.newest = self.newest, max(self.steps(), default=None)
            before = "there is none before" if self.newest is None else f"the last is {self.newest}"
            _LOGGER.warning(
                "step %s could not be saved to %s (%s): %s; it is tried again at the next save",
                *(step, self.directory, before, self._failure),
            )

    def close(self) -> None:
        """Wait for all that was begun; `RunFailed` if the last save did not succeed."""
        self.settle()
        self._thread.shutdown()
        if self._failure is not None:
            last = "none" if self.newest is None else f"step {self.newest}"
            raise RunFailed(
                f"no checkpoint could be written to {self.directory} (the last one: {last}): "
                f"{self._failure}: make room, then start again: it goes on from there"
            )

    def _finish(self, step: int, copied: Future[Any]) -> None:
        copied.result().result()
        unfinished = self.directory / f"{step}{_UNFINISHED}"
        digests.write(unfinished)
        unfinished.rename(self.directory / str(step))
        digests.sync_directory(self.directory)
        self._tidy()

    def _attach(self, step: int, metrics: dict[str, float]) -> None:
        directory = self.directory / str(step)
        if not directory.is_dir():  # it was not saved, or is gone
            return
        known = metrics_of(directory)
        known.pop("epochs", None)  # which is the metadata's
        try:
            digests.write_sealed(directory / METRICS, known | metrics)
        except OSError as error:
            _LOGGER.warning("%s: cannot be written: %s", directory / METRICS, error.strerror)
        self._tidy()

    def _tidy(self) -> None:
        steps = self.steps()
        metrics = {step: metrics_of(self.directory / str(step)) for step in steps}
        for step in set(steps) - self._keep.kept(steps, metrics) - {self._awaiting}:
            # Under a name that is none of a step first: half of a step is no step.
            leaving = self.directory / f"{step}.leaving{_UNFINISHED}"
            try:
                (self.directory / str(step)).rename(leaving)
                shutil.rmtree(leaving)
            except OSError as error:
                _LOGGER.warning("%s: cannot be removed: %s", leaving, error.strerror)

    def _remove_unfinished(self) -> None:
        """What a killed run, or a failed save, left behind."""
        for pattern in (f"*{_UNFINISHED}*", "*.orbax-checkpoint-tmp"):
            for path in self.directory.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _by_itself(settings: ocp.Context) -> None:
    """This process saves, the others of its run do not and are not waited for."""
    settings.multiprocessing.primary_host = jax.process_index()
    settings.multiprocessing.active_processes = {jax.process_index()}
    settings.multiprocessing.barrier_sync_key_prefix = "checkpoints"
    # Orbax (0.12) compares the directory over all processes nevertheless, and so waits for those
    # that do not save.
    if hasattr(execution, "_check_directory_consistency"):
        execution._check_directory_consistency = lambda directory: None


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def best_step(run_dir: Path) -> Path:
    """The directory of a run's best step, by what the run keeps them by.

    Raises:
        UserError: no step of it was judged by that, or there is none.
    """
    newest, contents, _ = newest_whole(run_dir)
    keep = Keep.of(contents.metadata.config.run)
    steps = {
        int(directory.name): metrics_of(directory) for directory in step_directories(newest.parent)
    }
    ranked = keep.ranked(steps)
    if not ranked:
        raise UserError(
            f"{run_dir}: no step in it has a {keep.by!r} (--keep-best-by): expected a run that "
            "was validated; without --best the latest step is used"
        )
    value = steps[ranked[0]][keep.by]
    _LOGGER.info(
        "%s: step %d is the best of %d by %s, %.6g", run_dir, ranked[0], len(ranked), keep.by, value
    )
    return newest.with_name(str(ranked[0]))


def write_new(run_dir: str | Path, step: int, state: Any, metadata: Metadata) -> Path:
    """Write one checkpoint, into a run directory of its own; whole, or not at all.

    Returns:
        The step's directory.

    Raises:
        UserError: the directory is there already, or cannot be made.
        RunFailed: the disk is full.
    """
    run_dir = Path(run_dir)
    if run_dir.exists() or run_dir.is_symlink():
        raise UserError(
            f"{run_dir}: is there already, and is not overwritten: name a new directory"
        )
    unfinished = run_dir.with_name(f".{run_dir.name}.{os.getpid()}{_UNFINISHED}")
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
    except OSError as error:
        raise UserError(f"{run_dir}: cannot be made: {error.strerror}") from error
    try:
        checkpoints = Checkpoints(unfinished, Keep(), little_by_little=True)
        checkpoints.save(step, state, metadata)
        checkpoints.close()
        unfinished.rename(run_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return run_dir / DIRECTORY / str(step)
