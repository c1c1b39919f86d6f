"""What a run says before it begins, and at its end."""

from __future__ import annotations

import logging
import math

from jax.sharding import Mesh

from vits_jax.checkpoints.saving import Keep
from vits_jax.config import HOLD, Config
from vits_jax.data.batching.batches import Plan
from vits_jax.data.batching.speaker_weights import shown, speakers_in_an_epoch
from vits_jax.data.manifest import Dataset
from vits_jax.data.split import Split
from vits_jax.data.unusable import describe
from vits_jax.model.networks import parameter_shapes
from vits_jax.model.parts import frozen, rates_of
from vits_jax.model.precision import chosen
from vits_jax.state import Position
from vits_jax.training import keeping
from vits_jax.training.start import Start
from vits_jax.training.stopping import Reason

_LOGGER = logging.getLogger(__name__)


def announce(config: Config, mesh: Mesh, dataset: Dataset, parts: Split, plan: Plan) -> None:
    """What will be trained on, where, in which shapes, and what will be kept."""
    run, device = config.run, mesh.devices.flat[0]
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
        "%d x %s, precision %s; %d batches an epoch; "
        "shapes to compile: %d (rows x phonemes x frames: %s); padding: %.1f %% of the frames, "
        "%.1f %% of the phonemes",
        *(mesh.size, device.device_kind, chosen(run.precision, device.platform)),
        *(plan.steps_per_epoch, len(plan.used_buckets), shapes),
        *(100 * plan.padding, 100 * plan.phoneme_padding),
    )
    if config.data.speaker_weights is not None:
        speakers = speakers_in_an_epoch(plan, dataset, parts.train)
        _LOGGER.info("speakers in an epoch: %s", shown(speakers))
    for part, factor in rates_of(config).items():
        how = f"learning rate x {factor:g}" if factor else "stays as it is"
        _LOGGER.info("%s: %s", part, how)
    if kept := keeping.announcement(config, dataset.config.raw):
        _LOGGER.info("%s", kept)
    flags = {"--freeze": ",".join(config.optimizer.freeze)}
    if config.optimizer.keep_speakers == HOLD:
        flags["--keep-speakers"] = HOLD
    held_by = ", ".join(f"{flag} {value}" for flag, value in flags.items() if value)
    for network, names in frozen(config).items():
        if names:
            own = parameter_shapes(config)[network]
            numbers = sum(math.prod(own[name]) for name in names)
            _LOGGER.info(
                "%s: %d of %d tensors do not learn (%s): %.2f M numbers",
                *(network, len(names), len(own), held_by, numbers / 1e6),
            )
    newest = "every one" if run.keep_newest < 0 else f"the newest {run.keep_newest}"
    for_ever = f", every {run.keep_epochs} epochs" if run.keep_epochs else ""
    keep = Keep.of(run)
    _LOGGER.info("checkpoints kept: %s, the best %d by %s%s", newest, keep.best, keep.by, for_ever)


def warn_if_over(start: Start, position: Position, end: float) -> None:
    """A run that continues may have nothing left to do."""
    if start.source is not None and position.step >= end:
        _LOGGER.warning(
            "nothing is left to train: %s is at step %d, epoch %d, and --max_steps or --max_epochs "
            "ends the run there or before",
            *(start.source.where, position.step, position.epoch),
        )


def conclude(
    position: Position, per_epoch: int, stopped_by: Reason | None, dataset: Dataset
) -> None:
    """Where it ended, and on what it was trained."""
    _LOGGER.info(
        "%s after %d steps: epoch %d, batch %d of %d",
        "done" if stopped_by is None else f"stopped by {stopped_by.what}",
        *(position.step, position.epoch, position.batch, per_epoch),
    )
    for line in dataset.summary():
        _LOGGER.info("%s", line)
