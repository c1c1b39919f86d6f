"""A training run, from top to bottom: mesh, data, place, state, step, loop."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm.contrib.logging import logging_redirect_tqdm

from vits_jax.checkpoints import store
from vits_jax.compilation import CompiledByShape
from vits_jax.config import Config, RunConfig, write_yaml
from vits_jax.config_checks import check
from vits_jax.data.batches import Plan, batches, make_plan
from vits_jax.data.left_out import describe
from vits_jax.data.manifest import Dataset, VoiceConfig, load_dataset, read_config
from vits_jax.data.split import Split, split
from vits_jax.errors import UserError
from vits_jax.training.continuing import Start, find_start, plan_identity
from vits_jax.training.logging import LAG, Events, Pending, Progress, StepNumbers
from vits_jax.training.mesh import check_batch_size, make_mesh, put_rows, replicated
from vits_jax.training.step import State, create_state, make_train_step
from vits_jax.training.validation import Validation

_LOGGER = logging.getLogger(__name__)

DEFAULT_MAX_EPOCHS = 1000  # Lightning's


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


def train(config: Config, given: Set[str] | None = None) -> Outcome:
    """Train until the configuration says so, or SIGINT or SIGTERM does.

    Args:
        given: flags that the user set (default: all). A run that goes on from a checkpoint
            takes its optimizers' settings from there, except those.

    Raises:
        UserError: the configuration, or the data, cannot be trained on.
        RunFailed: a loss is not finite, or a checkpoint cannot be written.
    """
    check(config)
    config = _of_dataset(config, read_config(str(config.data.dataset_dir)))
    with (
        _run_directory(config) as run_dir,
        _stop_signal() as stop,
        logging_redirect_tqdm(),
        # float32 as it says: accelerators would round the operands of products to fewer bits.
        jax.default_matmul_precision("highest"),
    ):
        return _train(config, given, run_dir, stop)


def _train(config: Config, given: Set[str] | None, run_dir: Path | None, stop: _Stop) -> Outcome:
    run = config.run

    # Mesh
    mesh = make_mesh(run.devices, run.accelerator)
    check_batch_size(_batch_size(config), mesh)

    # Data
    dataset = load_dataset(
        str(config.data.dataset_dir),
        hop_length=config.audio.hop_length,
        min_samples=config.audio.min_samples,
        max_phoneme_ids=config.data.max_phoneme_ids,
    )
    parts = split(dataset.keys, config.data.validation_split, config.data.num_test_examples)
    plan = make_plan(
        dataset,
        parts.train,
        batch_size=_batch_size(config),
        hop_length=config.audio.hop_length,
        segment_frames=config.segment_frames,
        num_buckets=config.data.num_buckets,
        seed=run.seed,
        also_fit=np.concatenate([parts.validation, parts.test]),
    )
    per_epoch = _batches_per_epoch(plan, run)
    identity = plan_identity(dataset, plan, per_epoch)

    # Place
    config, start = find_start(config, run_dir, identity, dataset.config.raw, given)
    if run_dir is not None:
        write_yaml(config, run_dir / "config.yaml")
    _announce(config, mesh, dataset, parts, plan)

    # State
    state = _make_state(config, mesh, start)
    step, epoch, batch = int(state["step"]), start.epoch, start.batch

    # Step
    train_step = CompiledByShape(make_train_step(config, mesh), "training step")
    validation = Validation(config, mesh, dataset, plan, parts.validation, parts.test)

    # Loop
    end = _end(run, step, epoch, batch, per_epoch)
    if start.source is not None and step >= end:
        _LOGGER.warning(
            "nothing is left to train: %s is at step %d, epoch %d, and --max_steps or --max_epochs "
            "ends the run there or before",
            *(start.source.where, step, epoch),
        )
    with _Output(run_dir, run, step, end, start) as output:
        pending, progress = Pending(), output.progress
        of_epoch: dict[str, float] = {}  # of the epoch that has just ended, if one has

        def report(lag: int = LAG) -> None:
            for numbers in pending.ready(lag):
                progress.step(numbers)

        def save() -> None:
            # Before a broken state could be saved, this raises: from finite gradients and
            # moments AdamW makes finite parameters.
            report(lag=0)
            metadata = store.Metadata(
                config, epoch, batch, dataset.config.raw, identity, start.decay_from
            )
            output.save(step, state, metadata, of_epoch)

        while step < end and stop.signal is None:
            rates = _learning_rates(config, epoch - start.decay_from)
            rates_on_devices = jax.device_put(rates, replicated(mesh))
            for bucket, rows in batches(dataset, plan, epoch, batch, per_epoch - batch):
                compiling = train_step.seconds
                with jax.transfer_guard("disallow"):  # nothing moves to or from a device unasked
                    on_devices = put_rows(rows, mesh)
                    shape = (bucket.phonemes, bucket.frames)
                    state, metrics = train_step(shape, state, on_devices, rates_on_devices)
                progress.other(train_step.seconds - compiling)
                step, batch, of_epoch = step + 1, batch + 1, {}
                seconds = float(rows["audio_lengths"] @ rows["weight"]) / config.audio.sample_rate
                known = {name: float(rate) for name, rate in rates.items()}
                pending.push(StepNumbers(step, epoch, known, seconds), metrics)
                report()
                if batch == per_epoch or step >= end or stop.signal is not None:
                    break
                if _due(step, run.checkpoint_steps):
                    save()
            if batch == per_epoch:
                epoch, batch, of_epoch = epoch + 1, 0, {"epochs": float(epoch + 1)}
                if stop.signal is None and (
                    run.fast_dev_run or _due(epoch, run.check_val_every_n_epoch)
                ):
                    report(lag=0)
                    of_epoch |= output.validate(validation, state, step)
                if _due(epoch, run.checkpoint_epochs or 1) or _due(step, run.checkpoint_steps):
                    save()
        save()
    _LOGGER.info(
        "%s after %d steps: epoch %d, batch %d of %d",
        "done" if stop.signal is None else f"stopped by {signal.Signals(stop.signal).name}",
        *(step, epoch, batch, per_epoch),
    )
    for line in dataset.summary():
        _LOGGER.info("%s", line)
    return Outcome(run_dir, step, epoch, batch, stop.signal)


def _of_dataset(config: Config, voice: VoiceConfig) -> Config:
    """With what only the dataset can say."""
    config = config.replaced(
        {
            "sample_rate": voice.sample_rate,
            "num_symbols": voice.num_symbols,
            "num_speakers": voice.num_speakers,
        }
    )
    check(config)
    return config


def _batch_size(config: Config) -> int:
    if config.data.batch_size is None:
        raise UserError("--batch-size is missing: utterances per step, over all devices together")
    return config.data.batch_size


def _batches_per_epoch(plan: Plan, run: RunConfig) -> int:
    limit = run.fast_dev_run or run.limit_train_batches
    if isinstance(limit, float):
        return max(1, int(plan.steps_per_epoch * limit))
    return min(plan.steps_per_epoch, limit)


def _end(run: RunConfig, step: int, epoch: int, batch: int, per_epoch: int) -> float:
    """The step at which the run ends; infinity if neither epochs nor steps are limited."""
    max_epochs = run.max_epochs
    if run.fast_dev_run:
        max_epochs = epoch + 1
    elif max_epochs is None:
        max_epochs = DEFAULT_MAX_EPOCHS if run.max_steps < 0 else -1
    by_epochs = step + max(0, (max_epochs - epoch) * per_epoch - batch)
    return min(
        math.inf if max_epochs < 0 else by_epochs,
        math.inf if run.max_steps < 0 else run.max_steps,
    )


def _due(count: int, every: int | None) -> bool:
    return every is not None and count % every == 0


def _learning_rates(config: Config, epochs: int) -> dict[str, np.float32]:
    """Both networks' rates after so many epochs, of which each decays them once."""
    o = config.optimizer
    rates = {
        "learning_rate": o.learning_rate * o.lr_decay**epochs,
        "learning_rate_d": o.learning_rate_d * o.lr_decay_d**epochs,
    }
    return {name: np.float32(rate) for name, rate in rates.items()}


def _make_state(config: Config, mesh: Mesh, start: Start) -> State:
    """Fresh, or from the checkpoint; a copy on every device."""
    fresh = functools.partial(create_state, config)
    key = jax.random.key(config.run.seed)
    if start.source is None or start.transfer is not None:
        state = jax.jit(fresh, out_shardings=replicated(mesh))(key)
        if start.transfer is not None and start.source is not None:
            state["params"] = start.transfer.apply(state["params"], start.source)
        return state
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        jax.eval_shape(fresh, key),
    )
    return start.source.state(target)


def _announce(config: Config, mesh: Mesh, dataset: Dataset, parts: Split, plan: Plan) -> None:
    """Say what will be trained on, where, in which shapes, and what will be kept."""
    run = config.run
    for line in describe(dataset.left_out, limit=20):
        _LOGGER.warning("%s", line)
    for section, values in config.to_dict().items():
        _LOGGER.info("%s: %s", section, " ".join(f"{k}={v}" for k, v in values.items()))
    _LOGGER.info(
        "%d utterances to train on (%.2f h in all), %d to validate on, %d to speak",
        *(len(parts.train), dataset.seconds / 3600, len(parts.validation), len(parts.test)),
    )
    shapes = ", ".join(f"{b.phonemes} x {b.frames}" for b in plan.used_buckets)
    _LOGGER.info(
        "%d x %s; %d batches of %d an epoch; shapes to compile: %d (phonemes x frames: %s); "
        "%.1f %% padding",
        *(mesh.size, mesh.devices.flat[0].device_kind),
        *(plan.steps_per_epoch, plan.batch_size, len(plan.used_buckets), shapes),
        100 * plan.padding,
    )
    newest = "every one" if run.keep_newest < 0 else f"the newest {run.keep_newest}"
    for_ever = f", every {run.keep_epochs} epochs" if run.keep_epochs else ""
    _LOGGER.info("checkpoints kept: %s, the best %d%s", newest, run.keep_best, for_ever)


class _Output:
    """What a run writes: events, progress, checkpoints; nothing in a fast_dev_run.

    Leaving the context waits for the last checkpoint.
    """

    def __init__(self, run_dir: Path | None, run: RunConfig, step: int, end: float, start: Start):
        self._run, self._saved = run, -1
        self._checkpoints = None if run_dir is None else store.Checkpoints(run_dir, run)
        here = None if self._checkpoints is None else self._checkpoints.directory
        if start.source is not None and start.source.where.parent == here:
            self._saved = step
        self.events = Events(run_dir, step)
        total = None if math.isinf(end) else int(end)
        self.progress = Progress(step, total, run.log_every_n_steps, self.events)

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.write()
        self.progress.close()
        self.events.close()
        if self._checkpoints is not None:
            self._checkpoints.close()

    def save(
        self, step: int, state: State, metadata: store.Metadata, metrics: Mapping[str, float]
    ) -> None:
        """Save a checkpoint, if this step has none."""
        if self._checkpoints is not None and step != self._saved:
            with self.progress.other_work():
                self._checkpoints.save(step, state, metadata, metrics)
            self._saved = step

    def validate(self, validation: Validation, state: State, step: int) -> dict[str, float]:
        """Validate; returns what the checkpoint should know: the mel loss, if there is one."""
        with self.progress.other_work():
            losses = validation.losses(state, self._run.fast_dev_run or None)
            self.events.scalars(step, {f"validation/{name}": v for name, v in losses.items()})
            if self._run.fast_dev_run == 0:
                validation.speak(state, step, self.events)
        if losses:
            shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            _LOGGER.info("validation after step %d: %s", step, shown)
        return {"mel": losses["mel"]} if losses else {}


@contextlib.contextmanager
def _run_directory(config: Config) -> Iterator[Path | None]:
    """The run's directory, made if it is not there; gone again if bad input ended the run."""
    run = config.run
    if run.fast_dev_run:
        _LOGGER.info("fast_dev_run: nothing is saved")
        yield None
        return
    if run.run_dir is not None:
        run_dir = Path(run.run_dir)
    else:
        runs = Path(run.default_root_dir or str(config.data.dataset_dir)) / "runs"
        versions = [int(d.name[8:]) for d in runs.glob("version_*") if d.name[8:].isdecimal()]
        run_dir = runs / f"version_{max(versions, default=-1) + 1}"
    _LOGGER.info("run directory: %s", run_dir)
    made = [d for d in (run_dir, *run_dir.parents) if not d.exists()]
    try:
        run_dir.mkdir(parents=True, exist_ok=run.run_dir is not None)
    except OSError as error:
        raise UserError(f"--run-dir {run_dir}: cannot be made: {error.strerror}") from error
    try:
        yield run_dir
    except UserError:
        with contextlib.suppress(OSError):  # one is not empty: leave it, and those above it
            for directory in made:
                directory.rmdir()
        raise


class _Stop:
    """Which signal has asked the run to end, if one has."""

    signal: int | None = None


@contextlib.contextmanager
def _stop_signal() -> Iterator[_Stop]:
    """SIGINT and SIGTERM end the run after the step at hand; a second one ends it at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread alone
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for known, handler in before.items():
            signal.signal(known, handler)
        _LOGGER.info("%s: saving after this step", signal.Signals(number).name)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
