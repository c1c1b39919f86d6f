"""A training run, from top to bottom: mesh, data, place, state, step, loop."""

from __future__ import annotations

import functools
import logging
import math
import signal
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm.contrib.logging import logging_redirect_tqdm

from vits_jax import device_memory
from vits_jax.checkpoints import store
from vits_jax.compilation import CompiledByShape, jit
from vits_jax.config import Config, RunConfig, write_yaml
from vits_jax.config_checks import check, check_batch
from vits_jax.data.batches import Batch, Plan, batches
from vits_jax.data.left_out import describe
from vits_jax.data.manifest import Dataset, VoiceConfig, load_dataset, read_config
from vits_jax.data.planning import Planner
from vits_jax.data.split import Split, split
from vits_jax.training.continuing import Start, find_start
from vits_jax.training.logging import LAG, Pending, StepNumbers
from vits_jax.training.mesh import check_batch_size, make_mesh, put_rows, replicated
from vits_jax.training.outputs import Outputs
from vits_jax.training.run_directory import run_directory
from vits_jax.training.skipping import Skipped
from vits_jax.training.step import State, create_state, make_train_step
from vits_jax.training.stopping import Stop, stop_signal
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
        RunFailed: too many losses are not finite, or the last checkpoint cannot be written.
    """
    check(config)
    config = _of_dataset(config, read_config(str(config.data.dataset_dir)))
    with (
        run_directory(config) as run_dir,
        stop_signal() as stop,
        logging_redirect_tqdm(),
        # float32 as it says: accelerators would round the operands of products to fewer bits.
        jax.default_matmul_precision("highest"),
    ):
        return _train(config, given, run_dir, stop)


def _train(config: Config, given: Set[str] | None, run_dir: Path | None, stop: Stop) -> Outcome:
    run = config.run

    # Mesh
    mesh = make_mesh(run.devices, run.accelerator)
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
    config, start = find_start(config, run_dir, planner, dataset.config.raw, given)
    plan = start.plan
    per_epoch, identity = planner.batches_per_epoch(plan), planner.identity(plan)
    if run_dir is not None:
        write_yaml(config, run_dir / "config.yaml")
    _announce(config, mesh, dataset, parts, plan)
    shapes = [(b.rows, b.phonemes, b.frames) for b in plan.used_buckets]
    device_memory.announce(config, shapes, mesh)

    # State
    advice = "use a smaller --quality, or a device with more memory"
    with device_memory.explained(lambda: ("the state of model and optimizers", None), advice):
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
    pending, skipped = Pending(), Skipped(run.max_skipped_updates, dataset)
    lag = min(LAG, run.max_skipped_updates - 1)  # so that nothing follows the last skipped step
    with Outputs(run_dir, run, step, end) as output, train_step.waiting():

        def report(lag: int = lag) -> None:
            for numbers in pending.ready(lag):
                output.progress.step(numbers)
                skipped.count(numbers)
            if lag and skipped.in_row:
                report(lag=0)

        def save() -> None:
            report(lag=0)
            metadata = store.Metadata(
                config, epoch, batch, dataset.config.raw, identity, start.decay_from
            )
            output.save(step, state, metadata)

        def ending() -> bool:
            return step >= end or stop.asked or skipped.too_many

        while not ending():
            rates = _learning_rates(config, epoch - start.decay_from)
            rates_on_devices = jax.device_put(rates, replicated(mesh))
            planned = plan.epoch(epoch)
            for bucket, rows in batches(dataset, plan, epoch, batch, per_epoch - batch):
                compiling = train_step.seconds
                with jax.transfer_guard("disallow"):  # nothing moves to or from a device unasked
                    on_devices = put_rows(rows, mesh)
                    shape = (bucket.rows, bucket.phonemes, bucket.frames)
                    state, metrics = train_step(shape, state, on_devices, rates_on_devices)
                output.progress.other(train_step.seconds - compiling)
                numbers = StepNumbers(
                    step=step + 1,
                    epoch=epoch,
                    rates={name: float(rate) for name, rate in rates.items()},
                    speech_seconds=_seconds(rows, config),
                    batch=rows,
                    rows=planned.used(batch),
                )
                pending.push(numbers, metrics)
                step, batch = step + 1, batch + 1
                report()
                if batch == per_epoch or ending():
                    break
                if output.due(step, epoch, batch):
                    save()
            if batch == per_epoch:
                epoch, batch = epoch + 1, 0
                # Saved before anything that could fail: validation is such a thing.
                if output.due(step, epoch, batch) or step >= end:
                    save()
                if not stop.asked and (
                    run.fast_dev_run or epoch % run.check_val_every_n_epoch == 0
                ):
                    report(lag=0)
                    output.validate(validation, state, step, stop)
        save()
    if skipped.too_many:
        raise skipped.failure(run_dir, checkpoint=step)
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


def _seconds(batch: Batch, config: Config) -> float:
    """Of speech in a batch."""
    return float(batch["audio_lengths"] @ batch["weight"]) / config.audio.sample_rate


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
        platform = mesh.devices.flat[0].platform
        state = jit(fresh, platform, out_shardings=replicated(mesh))(key)
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
    shapes = ", ".join(f"{b.rows} x {b.phonemes} x {b.frames}" for b in plan.used_buckets)
    _LOGGER.info(
        "%d x %s; %d batches an epoch; shapes to compile: %d (rows x phonemes x frames: %s); "
        "%.1f %% padding",
        *(mesh.size, mesh.devices.flat[0].device_kind),
        *(plan.steps_per_epoch, len(plan.used_buckets), shapes),
        100 * plan.padding,
    )
    newest = "every one" if run.keep_newest < 0 else f"the newest {run.keep_newest}"
    for_ever = f", every {run.keep_epochs} epochs" if run.keep_epochs else ""
    _LOGGER.info("checkpoints kept: %s, the best %d%s", newest, run.keep_best, for_ever)
