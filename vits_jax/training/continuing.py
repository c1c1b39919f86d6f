"""Where a run starts: afresh, where it stopped, or from another run's checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.checkpoints import store
from vits_jax.config import Config
from vits_jax.data.batches import Plan
from vits_jax.data.manifest import Dataset
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)

# What may be different when a run is continued: its length, its devices, the learning
# rates, what is logged and kept. A dataset may lie elsewhere: its content is compared.
MAY_CHANGE = frozenset(
    {
        *("max_epochs", "max_steps", "fast_dev_run"),
        *("devices", "accelerator"),
        *("learning_rate", "learning_rate_d", "lr_decay", "lr_decay_d"),
        *("log_every_n_steps", "check_val_every_n_epoch"),
        *("checkpoint_epochs", "checkpoint_steps", "keep_newest", "keep_best", "keep_epochs"),
        *("run_dir", "default_root_dir", "dataset_dir", "resume_from_checkpoint"),
    }
)
# Of the model, what changes neither the names nor the shapes of its parameters.
NO_PARAMETERS = frozenset({"p_dropout", "segment_size"})


@dataclass(frozen=True)
class Start:
    """The first batch of a run, and the checkpoint that its state comes from, if any."""

    epoch: int = 0
    batch: int = 0
    checkpoint: Path | None = None


def plan_identity(dataset: Dataset, plan: Plan, batches_per_epoch: int) -> dict[str, Any]:
    """What decides the content and order of the batches: a position means the same under it."""
    digest = hashlib.sha256()
    for column in (dataset.keys, dataset.id_lengths, dataset.samples, dataset.speaker_ids):
        digest.update(np.ascontiguousarray(column).tobytes())
    for row in range(len(dataset)):
        digest.update(dataset.phoneme_ids(row).tobytes())
    # Of the audio a sample: its lengths are above, and reading all of it would take long.
    for row in np.linspace(0, len(dataset) - 1, num=8).astype(int):
        digest.update(dataset.audio(row).tobytes())
    for rows in plan.members:
        digest.update(rows.tobytes() + b"|")
    return {
        "dataset": digest.hexdigest()[:16],
        "utterances": len(dataset),
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "batches_per_epoch": batches_per_epoch,
    }


def find_start(config: Config, run_dir: Path | None, plan: Mapping[str, Any]) -> Start:
    """Where to start.

    A checkpoint in the run directory beats ``--resume_from_checkpoint``.

    Raises:
        UserError: the run directory holds a run of another configuration or other data, or
            the checkpoint to resume from is of another model.
    """
    resume = config.run.resume_from_checkpoint
    steps = store.step_directories(run_dir / store.DIRECTORY) if run_dir is not None else []
    if steps:
        if resume is not None:
            _LOGGER.info("%s has a checkpoint: it beats --resume_from_checkpoint", run_dir)
        return _continue(config, steps[-1].absolute(), plan)
    if resume is not None:
        return _resume(config, store.resolve(resume), plan)
    return Start()


def _continue(config: Config, checkpoint: Path, plan: Mapping[str, Any]) -> Start:
    metadata = store.read_metadata(checkpoint)
    run_dir = checkpoint.parent.parent
    changed = store.differences(metadata.config, config, MAY_CHANGE)
    if changed:
        raise UserError(
            f"{run_dir} holds a run of another configuration: {'; '.join(changed)}: "
            "use the same values, or another --run-dir"
        )
    if metadata.plan != plan:
        was, now = metadata.plan.get("utterances"), plan["utterances"]
        raise UserError(
            f"{run_dir} holds a run on other data: {config.data.dataset_dir} has changed "
            f"({was} utterances then, {now} now): use another --run-dir, "
            f"with --resume_from_checkpoint {run_dir} to train on from there"
        )
    _LOGGER.info("continuing at step %s", checkpoint.name)
    return Start(metadata.epoch, metadata.batch, checkpoint)


def _resume(config: Config, checkpoint: Path, plan: Mapping[str, Any]) -> Start:
    metadata = store.read_metadata(checkpoint)
    theirs = metadata.config
    old = dataclasses.replace(config, audio=theirs.audio, model=theirs.model)
    changed = store.differences(old, config, NO_PARAMETERS)
    if changed:
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: another model: {'; '.join(changed)}: "
            "starting from a different model is not built yet"
        )
    if metadata.plan == plan:
        _LOGGER.info("resuming %s where it stopped", checkpoint)
        return Start(metadata.epoch, metadata.batch, checkpoint)
    _LOGGER.info(
        "resuming %s at the start of epoch %d: its batches were others", checkpoint, metadata.epoch
    )
    return Start(metadata.epoch, 0, checkpoint)
