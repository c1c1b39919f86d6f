"""A training run, from top to bottom: processes, mesh, data, place, step, state, loop."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import jax
from tqdm.contrib.logging import logging_redirect_tqdm

from vits_jax import device_memory
from vits_jax.checkpoints.store import Metadata
from vits_jax.compiler import Compiler
from vits_jax.config import Config, write_yaml
from vits_jax.config_checks import check
from vits_jax.state import Position
from vits_jax.training import schedule
from vits_jax.training.ahead import compile_ahead
from vits_jax.training.announcements import announce, conclude, warn_if_over
from vits_jax.training.evaluation import Pace, due
from vits_jax.training.feeding import Feeder
from vits_jax.training.fitting import fitted
from vits_jax.training.judging import Judging
from vits_jax.training.maintenance import heeded
from vits_jax.training.mesh import put_copies, replicated
from vits_jax.training.old_speakers import OldSpeakers
from vits_jax.training.outputs import Outputs
from vits_jax.training.peers import Peers, watched
from vits_jax.training.prepared import make_programs, of_dataset, prepare, started_alike
from vits_jax.training.processes import Processes, joined
from vits_jax.training.progress import LAG, Pending, StepNumbers
from vits_jax.training.run_directory import run_directory
from vits_jax.training.skipping import Skipped
from vits_jax.training.stopping import Reason, Stop, ended_after, stop_signal
from vits_jax.training.timeline import Timeline


@dataclass(frozen=True)
class Outcome:
    """Where a run ended; ``epoch`` and ``batch`` are what it would have done next.

    ``reason`` says why, if it ended early.
    """

    run_dir: Path | None
    step: int
    epoch: int
    batch: int
    reason: Reason | None

    @property
    def exit_code(self) -> int:
        """0, or that of what ended the run early."""
        return 0 if self.reason is None else self.reason.exit_code


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
        RunFailed: too many losses are not finite, the last checkpoint cannot be written, or the
            processes of the run do not find one another.
    """
    check(config)
    timeline = timeline or Timeline()
    with joined(config.run) as processes, watched(processes) as peers:
        with processes.together():
            config = of_dataset(config)
        with (
            stop_signal(processes) as stop,
            ended_after(config.run.max_time, stop),
            heeded(stop),
            run_directory(config, processes) as run_dir,
            logging_redirect_tqdm(),
            contextlib.closing(Compiler()) as compiler,
        ):
            peers.run_dir = run_dir
            outcome = _train(config, given, run_dir, processes, peers, stop, compiler, timeline)
        processes.collect("done")  # the first one has saved what there is to save
        return outcome


def _train(
    config: Config,
    given: Set[str] | None,
    run_dir: Path | None,
    processes: Processes,
    peers: Peers,
    stop: Stop,
    compiler: Compiler,
    timeline: Timeline,
) -> Outcome:
    # Mesh, data, place
    with processes.together():
        prepared = prepare(config, given, run_dir, timeline, looking=not processes.first)
    started_alike(prepared, processes)
    config, mesh, dataset = prepared.config, prepared.mesh, prepared.dataset
    start, first = prepared.start, prepared.start.position
    run, plan, per_epoch = config.run, prepared.plan, prepared.per_epoch
    if run_dir is not None and processes.first:
        write_yaml(config, run_dir / "config.yaml")
    announce(config, mesh, dataset, prepared.parts, plan)
    memory, shapes = prepared.memory, start.shapes(config, mesh)
    memory.announce(prepared.shapes, shapes)
    feeder = Feeder(config, mesh, dataset)
    timeline.done("data")

    # Step: compiled in the background from here on, while the state is made
    train_step, evaluators = make_programs(prepared, compiler, feeder, memory, processes)
    end = schedule.last_step(run, first, per_epoch)
    of_run = (plan, per_epoch, first, end)
    compile_ahead(config, mesh, *of_run, shapes, train_step, evaluators)

    # State
    advice = "use a smaller --quality, or a device with more memory"
    with device_memory.explained(lambda: ("the state of model and optimizers", None), advice):
        to_fit = dataset, plan, mesh.local_devices[0], lambda: stop.here, processes
        state = start.state(config, mesh, lambda p, missing: fitted(config, p, missing, *to_fit))
    timeline.done("state")

    # Loop
    step, epoch, batch = first.step, first.epoch, first.batch
    warn_if_over(start, first, end)
    pending, skipped = Pending(), Skipped(run.max_skipped_updates, dataset)
    rates: schedule.Rates = {}
    rates_on_devices: schedule.Rates = {}
    pace = Pace(run.check_val_every_n_epoch, processes)
    judging = (
        Judging(run_dir, config, dataset, prepared.parts.test, end)
        if run_dir is not None and processes.first
        else None
    )
    old_speakers = OldSpeakers(config, dataset, prepared.parts.test, evaluators)
    lag = min(LAG, run.max_skipped_updates - 1)  # so that nothing follows the last skipped step
    with (
        Outputs(
            *(run_dir, config, step, end, processes, mesh.local_devices[0], plan.padding)
        ) as output,
        train_step.waiting(),
        contextlib.closing(judging) if judging is not None else contextlib.nullcontext(),
        feeder.ahead(plan, epoch, batch, count=end - step, per_epoch=per_epoch) as feed,
    ):
        peers.writing = output.writing

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
            return step >= end or skipped.too_many or interrupted()

        def interrupted() -> bool:
            return stop.here or compiler.failure is not None

        if start.recovers(config) and not interrupted():
            save()  # what was fitted before the first step is not to be lost
        while not ending():
            planned = plan.epoch(epoch)
            for bucket, on_devices in itertools.islice(feed, per_epoch - batch):
                is_first = step == first.step
                if is_first:
                    timeline.done("first batch")
                compiling = train_step.seconds
                if not train_step.ready(bucket.shape, interrupted) or not stop.step():
                    break
                if is_first:
                    timeline.done("compiling")
                output.progress.other(train_step.seconds - compiling)
                now = schedule.rates(config, epoch - start.decay_from, step)
                if now != rates:
                    rates, rates_on_devices = now, put_copies(now, replicated(mesh))
                output.profiler.begin()
                with jax.transfer_guard("disallow"):  # nothing moves to or from a device unasked
                    state, metrics = train_step(bucket.shape, state, on_devices, rates_on_devices)
                output.profiler.end(metrics)
                numbers = StepNumbers(
                    step=step + 1,
                    epoch=epoch,
                    rates={name: float(rates[name]) for name in schedule.OF_NETWORKS},
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
                output.epoch()
                looking = [evaluator for evaluator in evaluators if due(evaluator, position)]
                # Asked once: the first process has an evaluator more than the others.
                if interrupted() or not stop.step() or not pace.due(last=step >= end):
                    looking = []
                # Saved before anything that could fail: an evaluation is such a thing.
                chosen = bool(looking) and output.chooses(judging)
                if chosen or step >= end or output.due(position, looked_at=bool(looking)):
                    save()
                if looking:
                    report(lag=0)
                    with pace.look():
                        for evaluator in looking:
                            output.evaluate(evaluator, state, position, stop)
                        output.evaluated(evaluators, stop)
                        output.judge(step, judging, stop)
                        processes.meet()  # the first one was at it longer
        # A fit that was interrupted is nothing to go on from: it begins again.
        if step > first.step or (compiler.failure is None and not start.recovers(config)):
            save()
        if not interrupted():
            output.ended(step, judging)
            output.records.scalars(step, old_speakers.tell(state, stop))
        if compiler.failure is not None:
            raise compiler.failure
    if skipped.too_many:
        failure = skipped.failure(run_dir, checkpoint=step, first=processes.first)
        failure.common = True  # each process counts the same steps
        raise failure
    conclude(Position(step, epoch, batch), per_epoch, stop.reason, dataset)
    return Outcome(run_dir, step, epoch, batch, stop.reason)
