"""An evaluator: the losses of the validation set."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vits_jax.compilation import jit
from vits_jax.compiler import Compiler
from vits_jax.config import Config
from vits_jax.data.batching.batches import Plan, batches, validation_plan
from vits_jax.data.batching.buckets import Bucket
from vits_jax.data.manifest import Dataset
from vits_jax.programs import Programs
from vits_jax.state import Position, TrainState
from vits_jax.training.evaluation import Evaluation, period
from vits_jax.training.feeding import Feeder
from vits_jax.training.mesh import (
    abstract_batch,
    abstract_copy,
    by_row,
    processes_of,
    put_copies,
    put_rows,
    replicated,
)
from vits_jax.training.processes import ALONE, Processes
from vits_jax.training.skipping import shortened, utterances
from vits_jax.training.step import make_eval_step
from vits_jax.training.stopping import Stop

_LOGGER = logging.getLogger(__name__)

OF_TEXTS = "of_texts"
_CONTRASTED = 2  # batches of each validation: they cost as much again


class Validation:
    """Its batches have training's shapes: what does not hang on them is compiled once.

    Args:
        plan: of training. What fits none of its buckets is not validated on: it would set the
            memory of the run, and compile a shape of its own.
        rows: of the dataset, to take losses of.
        feeder: of the run's batches.

    Attributes:
        every: epochs between two validations.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        dataset: Dataset,
        plan: Plan,
        rows: np.ndarray,
        feeder: Feeder,
        compiler: Compiler,
        processes: Processes = ALONE,
    ):
        run = config.run
        self.every = period(run)
        self._most_batches = run.fast_dev_run or None
        self._mesh, self._dataset, self._feeder = mesh, dataset, feeder
        self._plan, too_long = validation_plan(plan, dataset, rows)
        largest = plan.used_buckets[-1]
        if len(too_long):
            _LOGGER.warning(
                "warning: %d of %d utterances to validate on are not in the validation losses%s, "
                "as they are longer than all that is trained on (%d phoneme ids, %d frames): %s",
                *(
                    len(too_long),
                    len(rows),
                    "" if len(too_long) < len(rows) else ", which are none",
                ),
                *(largest.phonemes, largest.frames, shortened(utterances(dataset, too_long))),
            )
        self._config = config
        self._other_texts = jit(
            _other_texts, mesh.devices.flat[0].platform, out_shardings=by_row(mesh)
        )
        step = make_eval_step(config, mesh)
        self._step = Programs(
            step, "validation step", compiler, mesh.size, before_first=processes.meet
        )

    @property
    def compiled(self) -> Programs:
        """The validation step."""
        return self._step

    def ahead(self, state: TrainState) -> None:
        """Have compiled what it will need, in that order; of `state` only shapes matter."""
        params = abstract_copy(state.judged, self._mesh)
        row = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self._mesh))
        for index in self._plan.epoch(0).buckets[: self._count]:
            bucket = self._plan.buckets[index]
            batch = abstract_batch(self._config, self._mesh, *bucket.shape)
            self._step.ahead(bucket.shape, params, batch, row)

    def __call__(self, state: TrainState, position: Position, stop: Stop) -> Evaluation:
        """The losses as ``validation/NAME``; each may tell how good a checkpoint is."""
        losses = self.losses(state, position.step, stop)
        if losses:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            _LOGGER.info("validation after step %d: %s", position.step, shown)
        return Evaluation(
            {f"validation/{name}": value for name, value in losses.items()},
            keep_by={name: loss for name, loss in losses.items() if name != OF_TEXTS},
        )

    def losses(self, state: TrainState, step: int, stop: Stop) -> dict[str, float]:
        """Means over the validation set; empty without one, and where `stop` ended it early.

        ``of_texts`` is by how much KL rises, as a share of it, where each row has another's text,
        in the first batches: what a model has learned of a text makes its prior fit the recording
        better than that of another text. Where a corpus's texts are not what is said, nothing can.

        A mean that is not finite is left out, after a warning that names its utterances.
        """
        planned, sums, first_row = self._plan.epoch(0), [], 0
        others: list[tuple[int, dict[str, jax.Array]]] = []
        with self._feeder.ahead(self._plan, count=self._count) as feed:
            for bucket, batch in feed:
                if not self._step.ready(bucket.shape, lambda: stop.here) or not stop.step():
                    return {}
                sums.append(self._sums(state, bucket, batch, first_row))
                if len(others) < _CONTRASTED and len(planned.used(len(sums) - 1)) > 1:
                    other = self._sums(state, bucket, self._other_texts(batch), first_row)
                    others.append((len(sums) - 1, other))
                first_row += bucket.rows
        if not sums:
            return {}
        with self._step.waiting():
            numbers = [{n: float(v) for n, v in part.items()} for part in jax.device_get(sums)]
            of_texts = _risen(numbers, jax.device_get(others))
        broken = [i for i, part in enumerate(numbers) if not all(map(math.isfinite, part.values()))]
        if broken:
            self._warn(state, step, broken)
        totals = {name: sum(part[name] for part in numbers) for name in numbers[0]}
        weight = totals.pop("weight")
        means = {name: total / weight for name, total in totals.items()}
        return {n: mean for n, mean in (means | of_texts).items() if math.isfinite(mean)}

    @property
    def _count(self) -> int:
        """Batches of one validation."""
        count = self._plan.steps_per_epoch
        return count if self._most_batches is None else min(count, self._most_batches)

    def _sums(
        self, state: TrainState, bucket: Bucket, batch: dict[str, jax.Array], first_row: int
    ) -> dict[str, jax.Array]:
        with jax.transfer_guard("disallow"):
            row = put_copies(np.int32(first_row), replicated(self._mesh))
            return self._step(bucket.shape, state.judged, batch, row)

    def _warn(self, state: TrainState, step: int, broken: Sequence[int]) -> None:
        """Name what is not finite: in the first batch that is broken, each row by itself."""
        index = broken[0]
        ((bucket, rows),) = batches(self._dataset, self._plan, 0, index, 1)
        planned = self._plan.epoch(0)
        found = []
        for place, row in enumerate(planned.used(index)):
            # The same shape again, filled with one utterance: nothing new is compiled.
            count = len(rows["weight"]) // processes_of(self._mesh)
            alone = {name: np.repeat(x[place : place + 1], count, 0) for name, x in rows.items()}
            batch = put_rows(alone, self._mesh)
            sums = jax.device_get(self._sums(state, bucket, batch, planned.starts[index]))
            if not all(math.isfinite(float(value)) for value in sums.values()):
                found.append(row)
        named = shortened(utterances(self._dataset, found or planned.used(index)))
        _LOGGER.warning(
            "validation after step %d: losses of %d of %d batches are not finite, in the first "
            "of them those of %s; training goes on, this checkpoint has no validation loss",
            *(step, len(broken), self._plan.steps_per_epoch, named),
        )


def _other_texts(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Each row with the text of the row before it."""
    names = ("phoneme_ids", "phoneme_lengths")
    return batch | {name: jnp.roll(batch[name], 1, axis=0) for name in names}


def _risen(
    numbers: Sequence[Mapping[str, float]], others: Sequence[tuple[int, Mapping[str, np.ndarray]]]
) -> dict[str, float]:
    """How much KL rises, as a share of it, over the batches that have other texts."""
    own = sum(numbers[index]["kl"] for index, _ in others)
    risen = sum(float(found["kl"]) for _, found in others)
    return {OF_TEXTS: risen / own - 1} if own else {}
