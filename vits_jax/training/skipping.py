"""Updates that are skipped, because a loss or a gradient of theirs was not finite.

The step leaves parameters and optimizers as they were (`step.train_step`); here such steps
are counted. A few are weather: a broken recording, a rare overflow. Many in a row are not:
the run ends, with the last good state saved, and with a dump of the batch from which
``tools/replay.py`` repeats the step.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.checkpoints.store import DIRECTORY
from vits_jax.data.batching.batches import Batch
from vits_jax.data.manifest import Dataset
from vits_jax.errors import RunFailed, UserError
from vits_jax.training.mesh import gathered
from vits_jax.training.progress import StepNumbers

_LOGGER = logging.getLogger(__name__)

DUMPS = "dumps"
_NAMED = 5  # utterances in a message; all of them are in the dump


class Skipped:
    """Counts skipped updates; so many in a row as `most` are too many."""

    def __init__(self, most: int, dataset: Dataset):
        self._most, self._dataset = most, dataset
        self.in_row: list[StepNumbers] = []
        self.total = 0

    @property
    def too_many(self) -> bool:
        """Whether the run should end."""
        return len(self.in_row) >= self._most

    def count(self, numbers: StepNumbers) -> None:
        """Look at a finished step; the first of a row is warned of."""
        if not numbers.skipped:
            if len(self.in_row) > 1:
                _LOGGER.warning("%d updates in a row were skipped", len(self.in_row))
            self.in_row = []
            return
        self.total += 1
        self.in_row.append(numbers)
        if len(self.in_row) == 1:
            _LOGGER.warning(
                "step %d: the update is skipped, not finite: %s; utterances: %s; %d in a row "
                "would end the run",
                *(numbers.step, not_finite(numbers.values)),
                *(shortened(utterances(self._dataset, numbers.rows)), self._most),
            )

    def failure(self, run_dir: Path | None, checkpoint: int, first: bool = True) -> RunFailed:
        """Dump the last skipped step, and say why the run ends; all processes do.

        Args:
            checkpoint: the step at which its state is saved.
            first: whether this process writes.
        """
        last = self.in_row[-1]
        last = dataclasses.replace(last, batch=gathered(last.batch))
        names = utterances(self._dataset, last.rows)
        saved = f"the last good state is saved as step {checkpoint}"
        if run_dir is None:
            saved = "fast_dev_run saves nothing"
        elif first:
            try:
                dump = write_dump(run_dir, last, names, checkpoint)
                saved += f"; tools/replay.py {dump} repeats step {last.step}"
            except OSError as error:
                saved += f"; its batch could not be dumped ({error.strerror})"
        return RunFailed(
            f"step {last.step}: {len(self.in_row)} updates in a row were skipped, not finite: "
            f"{not_finite(last.values)}; utterances: {shortened(names)}; {saved}; "
            "a lower --learning-rate may help"
        )


def not_finite(values: Mapping[str, float]) -> str:
    """The numbers that are not, by name."""
    return ", ".join(f"{name} {v}" for name, v in values.items() if not math.isfinite(v))


def utterances(dataset: Dataset, rows: Iterable[int]) -> list[str]:
    """Where a dataset's utterances stand: ``dataset.jsonl:12``."""
    return [f"dataset.jsonl:{dataset.lines[row]}" for row in rows]


def shortened(names: Sequence[str]) -> str:
    """The first few of them."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def write_dump(run_dir: Path, numbers: StepNumbers, names: Sequence[str], checkpoint: int) -> Path:
    """``RUN/dumps/step-N.npz``: a batch, and beside it what its step came to.

    Arrays are the batch's; ``about`` is JSON.
    """
    path = run_dir / DUMPS / f"step-{numbers.step}.npz"
    path.parent.mkdir(exist_ok=True)
    about = {
        "step": numbers.step,
        "epoch": numbers.epoch,
        "checkpoint": f"../{DIRECTORY}/{checkpoint}",
        "rates": dict(numbers.rates),
        "values": {name: repr(value) for name, value in numbers.values.items()},
        "utterances": list(names),
    }
    unfinished = path.with_suffix(".unfinished")
    try:
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **numbers.batch)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


@dataclasses.dataclass(frozen=True)
class Dump:
    """What `write_dump` wrote: ``about`` as JSON, the batch, and where the state lies."""

    about: Mapping[str, Any]
    batch: Batch
    checkpoint: Path


def read_dump(path: Path) -> Dump:
    """Read a dump. `UserError` if it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            batch = {name: arrays[name] for name in arrays.files}
        about = json.loads(str(batch.pop("about")))
        return Dump(about, batch, path.parent / about["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a dump of a step: {error}") from error
