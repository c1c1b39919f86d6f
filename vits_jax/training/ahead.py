"""What a run will need compiled, in the order in which it will need it."""

from __future__ import annotations

from collections.abc import Sequence

from jax.sharding import Mesh

from vits_jax.config import Config
from vits_jax.data.batching.batches import Plan
from vits_jax.data.batching.buckets import Bucket
from vits_jax.programs import Programs
from vits_jax.state import Position, TrainState
from vits_jax.training import schedule
from vits_jax.training.evaluation import Evaluator, due
from vits_jax.training.mesh import abstract_batch, abstract_copy, abstract_rates


def compile_ahead(
    config: Config,
    mesh: Mesh,
    plan: Plan,
    per_epoch: int,
    position: Position,
    end: float,
    state: TrainState,
    train_step: Programs,
    evaluators: Sequence[Evaluator],
) -> None:
    """Ask for the programs of a run that goes from `position` to step `end`.

    Args:
        per_epoch: batches that are trained of each epoch.
        state: only shapes matter.
    """
    abstract_state, rates = (
        abstract_copy(state, mesh),
        abstract_rates(schedule.rates(config, 0, 0), mesh),
    )

    def ask(bucket: Bucket) -> None:
        rows = abstract_batch(config, mesh, *bucket.shape)
        train_step.ahead(bucket.shape, abstract_state, rows, rates)

    left, batch = end - position.step, position.batch
    for epoch in (position.epoch, position.epoch + 1):
        for index in plan.epoch(epoch).buckets[batch:per_epoch]:
            if left <= 0:
                return
            ask(plan.buckets[index])
            left -= 1
        for evaluator in evaluators:
            if due(evaluator, Position(0, epoch + 1, 0)):
                evaluator.ahead(state)
        batch = 0
    for evaluator in evaluators:  # that are due in later epochs
        epochs = evaluator.every - position.epoch % evaluator.every
        if epochs * per_epoch - position.batch <= end - position.step:
            evaluator.ahead(state)
    if left > 0:  # where an epoch is not trained to its end, later ones may meet other shapes
        for bucket in plan.used_buckets:
            ask(bucket)
