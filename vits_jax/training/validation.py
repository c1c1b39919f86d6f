"""After an epoch: the losses of the validation set, and the test examples spoken."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import Mesh

from vits_jax.compilation import CompiledByShape
from vits_jax.config import Config
from vits_jax.data.batches import Plan, batches, validation_plan
from vits_jax.data.manifest import Dataset
from vits_jax.training.logging import Events, check_finite
from vits_jax.training.mesh import put_rows, replicated
from vits_jax.training.step import State, make_eval_step
from vits_jax.voice import speech


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
        self._stages = speech.make_stages(config)

    @property
    def compiled(self) -> CompiledByShape:
        """The validation step."""
        return self._step

    def losses(self, state: State, most_batches: int | None = None) -> dict[str, float]:
        """Means over the validation set, empty without one.

        Raises:
            RunFailed: a loss is not finite.
        """
        count = self._plan.steps_per_epoch
        count = count if most_batches is None else min(count, most_batches)
        sums = []
        for index, (bucket, rows) in enumerate(batches(self._dataset, self._plan, 0, 0, count)):
            first_row = np.int32(index * self._plan.batch_size)
            with jax.transfer_guard("disallow"):
                batch = put_rows(rows, self._mesh)
                row = jax.device_put(first_row, replicated(self._mesh))
                shape = (bucket.phonemes, bucket.frames)
                sums.append(self._step(shape, state["params"], batch, row))
        if not sums:
            return {}
        totals = {name: sum(float(part[name]) for part in jax.device_get(sums)) for name in sums[0]}
        weight = totals.pop("weight")
        means = {name: total / weight for name, total in totals.items()}
        check_finite(f"validation after step {int(state['step'])}", means)
        return means

    def speak(self, state: State, step: int, events: Events) -> None:
        """Put the test examples into the events as audio, under their texts."""
        for number, row in enumerate(self._examples):
            sentence = speech.Sentence(
                self._dataset.phoneme_ids(row), int(self._dataset.speaker_ids[row])
            )
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
