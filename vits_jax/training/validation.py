"""After an epoch: the losses of the validation set, and the test examples spoken."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from vits_jax import device_memory
from vits_jax.compilation import CompiledByShape
from vits_jax.config import Config
from vits_jax.data.batches import Batch, Plan, batches, validation_plan
from vits_jax.data.buckets import Bucket
from vits_jax.data.manifest import Dataset
from vits_jax.training.events import Events
from vits_jax.training.mesh import put_rows, replicated
from vits_jax.training.skipping import shortened, utterances
from vits_jax.training.step import State, make_eval_step
from vits_jax.training.stopping import Stop
from vits_jax.voice import speech

_LOGGER = logging.getLogger(__name__)


class Validation:
    """Compiled once: its batches have training's shapes, its examples all the same one.

    Args:
        plan: of training, whose buckets hold every utterance here.
        rows: of the dataset, to take losses of.
        examples: rows of the dataset to speak.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        dataset: Dataset,
        plan: Plan,
        rows: np.ndarray,
        examples: np.ndarray,
    ):
        self._config, self._mesh, self._dataset, self._examples = config, mesh, dataset, examples
        self._plan = validation_plan(plan, dataset, rows)
        self._shape = (plan.buckets[-1].phonemes, plan.buckets[-1].frames)
        self._step = CompiledByShape(make_eval_step(config, mesh), "validation step")
        self._stages = speech.make_stages(config, mesh.devices.flat[0].platform)

    @property
    def compiled(self) -> CompiledByShape:
        """The validation step."""
        return self._step

    def losses(
        self, state: State, most_batches: int | None = None, stop: Stop | None = None
    ) -> dict[str, float]:
        """Means over the validation set; empty without one, and where `stop` ended it early.

        A mean that is not finite is left out, after a warning that names its utterances.
        """
        count = self._plan.steps_per_epoch
        count = count if most_batches is None else min(count, most_batches)
        sums = []
        for index, (bucket, rows) in enumerate(batches(self._dataset, self._plan, 0, 0, count)):
            if stop is not None and stop.asked:
                return {}
            sums.append(self._sums(state, bucket, rows, index))
        if not sums:
            return {}
        with self._step.waiting():
            numbers = [{n: float(v) for n, v in part.items()} for part in jax.device_get(sums)]
        broken = [i for i, part in enumerate(numbers) if not all(map(math.isfinite, part.values()))]
        if broken:
            self._warn(state, broken)
        totals = {name: sum(part[name] for part in numbers) for name in numbers[0]}
        weight = totals.pop("weight")
        means = {name: total / weight for name, total in totals.items()}
        return {name: mean for name, mean in means.items() if math.isfinite(mean)}

    def _sums(self, state: State, bucket: Bucket, rows: Batch, index: int) -> dict[str, jax.Array]:
        first_row = np.int32(index * self._plan.batch_size)
        with jax.transfer_guard("disallow"):
            batch = put_rows(rows, self._mesh)
            row = jax.device_put(first_row, replicated(self._mesh))
            shape = (self._plan.batch_size, bucket.phonemes, bucket.frames)
            return self._step(shape, state["params"], batch, row)

    def _warn(self, state: State, broken: Sequence[int]) -> None:
        """Name what is not finite: in the first batch that is broken, each row by itself."""
        index = broken[0]
        ((bucket, rows),) = batches(self._dataset, self._plan, 0, index, 1)
        planned = self._plan.epoch(0)
        found = []
        for place in np.flatnonzero(planned.weight[index]):
            # The same shape again, filled with one utterance: nothing new is compiled.
            alone = {name: np.repeat(x[place : place + 1], len(x), 0) for name, x in rows.items()}
            sums = jax.device_get(self._sums(state, bucket, alone, index))
            if not all(math.isfinite(float(value)) for value in sums.values()):
                found.append(int(planned.rows[index][place]))
        named = shortened(utterances(self._dataset, found or planned.rows[index]))
        _LOGGER.warning(
            "validation after step %d: losses of %d of %d batches are not finite, in the first "
            "of them those of %s; training goes on, this checkpoint has no validation loss",
            *(int(state["step"]), len(broken), self._plan.steps_per_epoch, named),
        )

    def speak(self, state: State, step: int, events: Events, stop: Stop | None = None) -> None:
        """Put the test examples into the events as audio, under their texts; `stop` ends it."""
        for number, row in enumerate(self._examples):
            if stop is not None and stop.asked:
                return
            sentence = speech.Sentence(
                self._dataset.phoneme_ids(row), int(self._dataset.speaker_ids[row])
            )
            with device_memory.explained(lambda: ("the test examples", None)):
                (spoken,) = speech.speak(
                    self._stages,
                    state["params"]["model_g"],
                    self._config,
                    [sentence],
                    speech.Settings(),
                    shape=self._shape,
                )
            tag = self._dataset.text(row) or str(number)
            events.audio(step, tag, spoken.audio, self._config.audio.sample_rate)
