"""Whole checkpoints from Piper's trainer to this one and back."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from vits_jax.checkpoints import saving
from vits_jax.checkpoints.piper import ckpt_file as torch_files
from vits_jax.checkpoints.piper import reading as piper
from vits_jax.checkpoints.piper.writing import to_ckpt
from vits_jax.checkpoints.source import numpy_state, open_checkpoint
from vits_jax.data.voice_config import read_voice_config
from vits_jax.errors import UserError
from vits_jax.state import TrainState, abstract_state

_LOGGER = logging.getLogger(__name__)

PIPER_WIDTH = 1024


def import_ckpt(path: Path, output: Path, voice_config: Path | None = None) -> Path:
    """A Piper ``.ckpt`` as a checkpoint of a new run directory.

    With discriminators and optimizer state it can be continued; without, what there is
    speaks and starts warm.

    Returns:
        The step's directory.

    Raises:
        UserError: it cannot be read, or `output` exists or cannot be written.
    """
    voice = None if voice_config is None else read_voice_config(voice_config)
    checkpoint = piper.read(path, voice)
    whole = bool(checkpoint.optimizer)
    if whole:
        state = numpy_state(checkpoint, path)
    else:
        step = np.array(checkpoint.step, np.int32)
        state = TrainState(step, checkpoint.params, averages=checkpoint.averages)
    for name in checkpoint.left:
        _LOGGER.info("left out: %s", name)
    step_dir = saving.write_new(output, checkpoint.step, state.to_dict(), checkpoint.metadata)
    _LOGGER.info(
        "%s: %d tensors, step %d, epoch %d%s",
        *(step_dir, sum(map(len, checkpoint.params.values()))),
        *(checkpoint.step, checkpoint.metadata.position.epoch),
        "" if whole else "; weights alone, it cannot be continued: --warmstart_ckpt starts from it",
    )
    return step_dir


def export_ckpt(checkpoint: str | Path, output: Path, voice_config: Path | None = None) -> None:
    """A checkpoint as a ``.ckpt`` that ``piper.train fit --ckpt_path`` continues from.

    Its ``model_g`` are the plain weights, with which training goes on; averages stand beside
    them, where Lightning does not look and `import_ckpt` does.

    Raises:
        UserError: there is no checkpoint, it is not one of a whole run, Piper has no such
            model, or `output` cannot be written.
    """
    if output.exists():
        raise UserError(f"{output}: is there already, and is not overwritten: name another")
    source = open_checkpoint(checkpoint, voice_config)
    metadata = source.metadata
    width = metadata.config.model.discriminator_width
    if width != PIPER_WIDTH:
        raise UserError(
            f"{source.where}: --discriminator-width {width}: Piper's discriminators are "
            f"{PIPER_WIDTH} wide, it cannot load others"
        )
    target = abstract_state(metadata.config, SingleDeviceSharding(jax.devices()[0]))
    values = to_ckpt(jax.device_get(source.state(target)), metadata)
    torch_files.write_ckpt(values, output)
    _LOGGER.info(
        "%s: epoch %d, global_step %d (two a batch)",
        *(output, values["epoch"], values["global_step"]),
    )
