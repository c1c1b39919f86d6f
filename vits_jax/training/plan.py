"""What a run would do, without doing it; and its programs compiled before it begins."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Set
from pathlib import Path
from typing import Any, NamedTuple

from vits_jax import device_memory
from vits_jax.buckets import is_remote, open_bucket
from vits_jax.checkpoints.remote import place_of, pull
from vits_jax.compilation import Remembered, keep, remembered
from vits_jax.compiler import Compiler
from vits_jax.config import Config
from vits_jax.data.batching.speaker_weights import speakers_in_an_epoch
from vits_jax.data.unusable import describe
from vits_jax.model.precision import chosen
from vits_jax.training import schedule
from vits_jax.training.ahead import compile_ahead
from vits_jax.training.feeding import Feeder
from vits_jax.training.prepared import Prepared, make_programs, of_dataset, prepare
from vits_jax.training.timeline import Timeline

_LOGGER = logging.getLogger(__name__)


def look(config: Config, given: Set[str] | None = None) -> Prepared:
    """What `loop.train` would begin with; nothing of a run is written.

    Args:
        given: flags that the user set (default: all).

    Raises:
        UserError: the configuration, or the data, cannot be trained on.
    """
    config = of_dataset(config)
    run_dir = None
    if config.run.run_dir is not None and not config.run.fast_dev_run:
        named = config.run.run_dir
        run_dir = Path(named)
        if is_remote(named):
            run_dir = place_of(named, "checkpoints")
            pull(open_bucket(named, "--run-dir"), run_dir, newest=True)
    prepared = prepare(config, given, run_dir, Timeline(), looking=True)
    for line in describe(prepared.dataset.left_out, limit=20):
        _LOGGER.warning("%s", line)
    return prepared


def figures(prepared: Prepared) -> dict[str, Any]:
    """The numbers of a run, for JSON: sizes in bytes, padding as shares of 1.

    ``shapes`` are rows over all devices, phonemes and frames, with the batches of a whole epoch
    that have them; ``bytes`` is what the compiler said that a step takes of a device's memory,
    None where it was not compiled yet. ``speakers`` are utterances to train on, and rows of a whole
    epoch, of each. ``end`` is a step, None for a run without end.
    """
    config, mesh, plan, parts = prepared.config, prepared.mesh, prepared.plan, prepared.parts
    speakers = speakers_in_an_epoch(plan, prepared.dataset, parts.train)
    device, first = mesh.devices.flat[0], prepared.start.position
    end = schedule.last_step(config.run, first, prepared.per_epoch)
    known = prepared.memory.known(prepared.shapes)
    batches = [n for n in plan.schedule.batches if n]
    return {
        "train": len(parts.train),
        "validation": len(parts.validation),
        "test": len(parts.test),
        "left_out": len(prepared.dataset.left_out),
        "speech_seconds": prepared.dataset.seconds,
        "devices": mesh.size,
        "device": device.device_kind,
        "device_bytes": device_memory.capacity(device),
        "precision": chosen(config.run.precision, device.platform),
        "shapes": [
            {
                "rows": shape[0],
                "phonemes": shape[1],
                "frames": shape[2],
                "batches": count,
                "bytes": known.get(shape),
            }
            for shape, count in zip(prepared.shapes, batches, strict=True)
        ],
        "speakers": [speaker._asdict() for speaker in speakers],
        "padding": plan.padding,
        "phoneme_padding": plan.phoneme_padding,
        "batches_per_epoch": plan.steps_per_epoch,
        "trained_per_epoch": prepared.per_epoch,
        "step": first.step,
        "epoch": first.epoch,
        "end": None if math.isinf(end) else int(end),
    }


class Warmed(NamedTuple):
    """Programs that the cache had, those that it has now besides, and what that took."""

    found: int
    kept: int
    seconds: float


def warm(prepared: Prepared) -> Warmed:
    """Compile all that the run would need, in the order in which it would need it.

    Raises:
        RunFailed: there is not memory enough.
    """
    begin, before = time.perf_counter(), remembered()
    config, mesh, start = prepared.config, prepared.mesh, prepared.start
    first = start.position
    end = schedule.last_step(config.run, first, prepared.per_epoch)
    compiler = Compiler()
    # It gives no batch here, so the corpus need not go to the devices.
    feeder = Feeder(config.replaced({"data_on_device": False}), mesh, prepared.dataset)
    train_step, evaluators = make_programs(prepared, compiler, feeder, prepared.memory)
    of_run, shapes = (prepared.plan, prepared.per_epoch, first, end), start.shapes(config, mesh)
    try:
        compile_ahead(config, mesh, *of_run, shapes, train_step, evaluators)
        compiler.wait()
    finally:
        compiler.close()
    keep(settled=True)
    now = Remembered(*(b - a for a, b in zip(before, remembered(), strict=True)))
    return Warmed(now.found, now.kept, time.perf_counter() - begin)
