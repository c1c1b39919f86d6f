"""A training run, from top to bottom: mesh, data, place, step, state, loop."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm.contrib.logging import logging_redirect_tqdm

from vits_jax import device_memory
from vits_jax.checkpoints.store import Metadata
from vits_jax.compiler import Compiler
from vits_jax.config import Config, write_yaml
from vits_jax.config_checks import check, check_batch
from vits_jax.data.batching.batches import Plan
from vits_jax.data.batching.planning import Planner
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.data.split import Split, split
from vits_jax.data.voice_config import read_config
from vits_jax.programs import Programs
from vits_jax.state import Position
from vits_jax.training import memory, schedule
from vits_jax.training.ahead import compile_ahead
from vits_jax.training.announcements import announce, conclude, warn_if_over
from vits_jax.training.evaluation import Evaluator, due
from vits_jax.training.examples import SpokenExamples
from vits_jax.training.feeding import Feeder, corpus_on_devices
from vits_jax.training.mesh import check_batch_size, make_mesh, replicated
from vits_jax.training.outputs import Outputs
from vits_jax.training.progress import LAG, Pending, StepNumbers
from vits_jax.training.run_directory import run_directory
from vits_jax.training.skipping import Skipped
from vits_jax.training.start import Start, find_start
from vits_jax.training.step import make_train_step
from vits_jax.training.stopping import Stop, stop_signal
from vits_jax.training.timeline import Timeline
from vits_jax.training.validation import Validation


@dataclass(frozen=True)
class Outcome:
    """Where a run ended; ``epoch`` and ``batch`` are what it would have done next."""

    run_dir: Path | None
    step: int
    epoch: int
    batch: int
    signal: int | None

    @property
    def exit_code(self) -> int:
        """0, or 128 and the number of the signal that ended the run early."""
        return 0 if self.signal is None else 128 + self.signal


@dataclass(frozen=True)
class Prepared:
    """What a run is made of before anything is compiled or computed."""

    config: Config
    mesh: Mesh
    dataset: Dataset
    parts: Split
    start: Start
    per_epoch: int  # batches of each epoch that are trained on
    identity: Mapping[str, Any]  # of the batches, for the checkpoints

    @property
    def plan(self) -> Plan:
        """The batches."""
        return self.start.plan

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of batches: rows over all devices, phonemes, frames."""
        return [bucket.shape for bucket in self.plan.used_buckets]


def train(
    config: Config, given: Set[str] | None = None, timeline: Timeline | None = None
) -> Outcome:
    """Train until the configuration says so, or SIGINT or SIGTERM does.

    Args:
        given: flags that the user set (default: all). A run that goes on from a checkpoint
            takes its optimizers' settings from there, except those.
        timeline: of what was done before (default: it begins here).

    Raises:
        UserError: the configuration, or the data, cannot be trained on.
        RunFailed: too many losses are not finite, or the last checkpoint cannot be written.
    """
    config = of_dataset(config)
    timeline = timeline or Timeline()
    with (
        run_directory(config) as run_dir,
        stop_signal() as stop,
        logging_redirect_tqdm(),
        contextlib.closing(Compiler()) as compiler,
    ):
        return _train(config, given, run_dir, stop, compiler, timeline)


def prepare(
    config: Config,
    given: Set[str] | None,
    run_dir: Path | None,
    timeline: Timeline,
    looking: bool = False,
) -> Prepared:
    """All that is known of a run before it is begun.

    Args:
        config: `of_dataset`.
        given: see `train`.
        run_dir: the run's directory, if it has one.
        timeline: is told of devices and data.
        looking: whether nothing is to be changed in `run_dir`.

    Raises:
        UserError: the configuration, or the data, cannot be trained on.
    """
    run = config.run

    # Mesh
    mesh = make_mesh(run.devices, run.accelerator)
    timeline.done("devices")
    check_batch(config.data)
    if config.data.batch_size is not None:
        check_batch_size(config.data.batch_size, mesh)

    # Data
    dataset = load_dataset(
        str(config.data.dataset_dir),
        hop_length=config.audio.hop_length,
        min_samples=config.audio.min_samples,
        max_phoneme_ids=config.data.max_phoneme_ids,
        max_frames=config.data.max_frames,
    )
    parts = split(dataset.keys, config.data.validation_split, config.data.num_test_examples)
    planner = Planner(config, dataset, parts, mesh.size)

    # Place
    raw = dataset.config.raw
    config, start = find_start(config, run_dir, planner, raw, given, looking=looking)
    per_epoch, identity = planner.batches_per_epoch(start.plan), planner.identity(start.plan)
    timeline.done("data")
    return Prepared(config, mesh, dataset, parts, start, per_epoch, identity)


def make_programs(
    prepared: Prepared, compiler: Compiler, feeder: Feeder
) -> tuple[Programs, list[Evaluator]]:
    """The training step, and what looks at the run; nothing is compiled yet."""
    config, mesh, dataset = prepared.config, prepared.mesh, prepared.dataset
    plan, parts = prepared.plan, prepared.parts
    train_step = Programs(make_train_step(config, mesh), "training step", compiler, mesh.size)
    evaluators: list[Evaluator] = [
        Validation(config, mesh, dataset, plan, parts.validation, feeder, compiler)
    ]
    if not config.run.fast_dev_run:
        evaluators.append(SpokenExamples(config, mesh, dataset, plan, parts.test, compiler))
    return train_step, evaluators


def _train(
    config: Config,
    given: Set[str] | None,
    run_dir: Path | None,
    stop: Stop,
    compiler: Compiler,
    timeline: Timeline,
) -> Outcome:
    # Mesh, data, place
    prepared = prepare(config, given, run_dir, timeline)
    config, mesh, dataset = prepared.config, prepared.mesh, prepared.dataset
    start, first = prepared.start, prepared.start.position
    run, plan, per_epoch = config.run, prepared.plan, prepared.per_epoch
    if run_dir is not None:
        write_yaml(config, run_dir / "config.yaml")
    announce(config, mesh, dataset, prepared.parts, plan)
    memory.announce(config, prepared.shapes, mesh, corpus_on_devices(config, dataset))
    feeder = Feeder(config, mesh, dataset)
    timeline.done("data")

    # Step: compiled in the background from here on, while the state is made
    train_step, evaluators = make_programs(prepared, compiler, feeder)
    end = schedule.last_step(run, first, per_epoch)
    of_run, shapes = (plan, per_epoch, first, end), start.shapes(config, mesh)
    compile_ahead(config, mesh, *of_run, shapes, train_step, evaluators)

    # State
    advice = "use a smaller --quality, or a device with more memory"
    with device_memory.explained(lambda: ("the state of model and optimizers", None), advice):
        state = start.state(config, mesh)
    timeline.done("state")

    # Loop
    step, epoch, batch = first.step, first.epoch, first.batch
    warn_if_over(start, first, end)
    pending, skipped = Pending(), Skipped(run.max_skipped_updates, dataset)
    lag = min(LAG, run.max_skipped_updates - 1)  # so that nothing follows the last skipped step
    with (
        Outputs(run_dir, config, step, end) as output,
        train_step.waiting(),
        feeder.ahead(plan, epoch, batch, count=end - step, per_epoch=per_epoch) as feed,
    ):

        def report(lag: int = lag) -> None:
            for numbers in pending.ready(lag):
                output.progress.step(numbers)
                skipped.count(numbers)
            if lag and skipped.in_row:
                report(lag=0)

        def save() -> None:
            report(lag=0)
            position = Position(step, epoch, batch)
            raw, identity = dataset.config.raw, prepared.identity
            output.save(state, Metadata(config, position, raw, identity, start.decay_from))

        def ending() -> bool:
            return step >= end or interrupted() or skipped.too_many

        def interrupted() -> bool:
            return stop.asked or compiler.failure is not None

        while not ending():
            rates = schedule.learning_rates(config, epoch - start.decay_from)
            rates_on_devices = jax.device_put(rates, replicated(mesh))
            planned = plan.epoch(epoch)
            for bucket, on_devices in itertools.islice(feed, per_epoch - batch):
                is_first = step == first.step
                if is_first:
                    timeline.done("first batch")
                compiling = train_step.seconds
                if not train_step.ready(bucket.shape, interrupted):
                    break
                if is_first:
                    timeline.done("compiling")
                output.progress.other(train_step.seconds - compiling)
                output.profiler.begin()
                with jax.transfer_guard("disallow"):  # nothing moves to or from a device unasked
                    state, metrics = train_step(bucket.shape, state, on_devices, rates_on_devices)
                output.profiler.end(metrics)
                numbers = StepNumbers(
                    step=step + 1,
                    epoch=epoch,
                    rates={name: float(rate) for name, rate in rates.items()},
                    speech_seconds=dataset.seconds_of(planned.used(batch)),
                    batch=on_devices,
                    rows=planned.used(batch),
                    waited=feed.waited,
                )
                pending.push(numbers, metrics)
                step, batch = step + 1, batch + 1
                report(0 if is_first else lag)
                if is_first:
                    timeline.done("step")
                    timeline.tracing = train_step.tracing(bucket.shape)
                    output.started(timeline, step)
                if batch == per_epoch or ending():
                    break
                if output.due(Position(step, epoch, batch)):
                    save()
            if batch == per_epoch:
                epoch, batch = epoch + 1, 0
                position = Position(step, epoch, batch)
                # Saved before anything that could fail: an evaluation is such a thing.
                if output.due(position) or step >= end:
                    save()
                for evaluator in evaluators:
                    if due(evaluator, position) and not interrupted():
                        report(lag=0)
                        output.evaluate(evaluator, state, position, stop)
        if step > first.step or compiler.failure is None:
            save()
        if compiler.failure is not None:
            raise compiler.failure
    if skipped.too_many:
        raise skipped.failure(run_dir, checkpoint=step)
    conclude(Position(step, epoch, batch), per_epoch, stop.signal, dataset)
    return Outcome(run_dir, step, epoch, batch, stop.signal)


def of_dataset(config: Config) -> Config:
    """With what only the dataset can say.

    Raises:
        UserError: it cannot be read, or the configuration is not possible.
    """
    check(config)
    voice = read_config(str(config.data.dataset_dir))
    config = config.replaced(
        {
            "sample_rate": voice.sample_rate,
            "num_symbols": voice.num_symbols,
            "num_speakers": voice.num_speakers,
        }
    )
    check(config)
    return config
