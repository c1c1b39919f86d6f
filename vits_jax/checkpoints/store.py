"""Checkpoints on disk: Orbax, one directory per step.

::

    RUN/checkpoints/STEP/state       step, parameters, optimizer moments
    RUN/checkpoints/STEP/metrics     validation mel loss, finished epoch (for what is kept)
    RUN/checkpoints/STEP/…METADATA   `Metadata` as JSON

A step's directory gets its name when it is complete: a run killed while it saves has the
step before. A checkpoint does not depend on the number of devices that wrote it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from vits_jax.config import Config, RunConfig
from vits_jax.errors import RunFailed, UserError

FORMAT_VERSION = 1
DIRECTORY = "checkpoints"
_STATE = "state"  # Orbax's name for it
_WRITTEN_AT_ONCE = 1 << 26  # bytes; the largest tensor of the presets has 21 MB
_LIBRARIES = ("vits_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class Metadata:
    """All of a checkpoint but its arrays.

    ``epoch`` and ``batch`` (within the epoch) are what the run does next; the learning rates
    have decayed since ``decay_from``, an epoch. ``dataset`` is
    the dataset's ``config.json``, with the phoneme and speaker maps that speaking needs;
    ``plan`` identifies data and order of the batches.
    """

    config: Config
    epoch: int
    batch: int
    dataset: Mapping[str, Any]
    plan: Mapping[str, Any]
    decay_from: int = 0

    def to_json(self) -> dict[str, Any]:
        """What is written."""
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        return {
            "format_version": FORMAT_VERSION,
            "position": {
                "epoch": self.epoch,
                "batch": self.batch,
                "decay_from": self.decay_from,
            },
            "config": self.config.to_dict(),
            "dataset": dict(self.dataset),
            "plan": dict(self.plan),
            "versions": {"python": platform.python_version(), **versions},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None, where: Path) -> Metadata:
        """The reverse; `UserError` if a later version wrote it, or something else did."""
        version = (values or {}).get("format_version")
        if values is None or not isinstance(version, int):
            raise UserError(f"{where}: an Orbax checkpoint, but not one of vits_jax's")
        if version > FORMAT_VERSION:
            raise UserError(
                f"{where}: format_version {version}, expected at most {FORMAT_VERSION}: "
                "install a newer vits_jax"
            )
        return cls(
            config=Config.from_dict(values["config"], str(where)),
            epoch=values["position"]["epoch"],
            batch=values["position"]["batch"],
            dataset=values["dataset"],
            plan=values["plan"],
            decay_from=values["position"].get("decay_from", 0),
        )

    def learning_rates(self) -> tuple[float, float]:
        """Of the generator and the discriminators, in the epoch that comes next."""
        o, epochs = self.config.optimizer, self.epoch - self.decay_from
        return o.learning_rate * o.lr_decay**epochs, o.learning_rate_d * o.lr_decay_d**epochs


@dataclass(frozen=True)
class _EpochEnds:
    """Orbax policy: keep the checkpoint at the end of every Nth epoch."""

    epochs: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        finished = [(info.metrics or {}).get("epochs") for info in checkpoints]
        return [count is not None and count % self.epochs == 0 for count in finished]


def _mel(metrics: Mapping[str, float]) -> float:
    return metrics.get("mel", math.inf)


class Checkpoints:
    """The checkpoints of one run, saved in the background.

    Kept are the newest ``keep_newest`` (-1: all), the ``keep_best`` of lowest validation
    mel loss and, for ever, those at the end of every ``keep_epochs``th epoch.
    """

    def __init__(self, run_dir: Path, keep: RunConfig):
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(None if keep.keep_newest < 0 else keep.keep_newest)]
        if keep.keep_best:
            kept.append(
                policies.BestN(
                    get_metric_fn=_mel,
                    reverse=True,
                    n=keep.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        if keep.keep_epochs is not None:
            kept.append(_EpochEnds(keep.keep_epochs))
        self.directory = (run_dir / DIRECTORY).absolute()
        for half_written in self.directory.glob("*.orbax-checkpoint-tmp"):  # by a killed run
            shutil.rmtree(half_written)
        self._manager = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.AnyPreservationPolicy(kept),
        )

    def steps(self) -> list[int]:
        """The steps there are, oldest first."""
        return [info.step for info in self._manager.checkpoints]

    def save(self, step: int, state: Any, metadata: Metadata, metrics: Mapping[str, float]) -> None:
        """Save in the background; returns when `state` is copied and may be overwritten.

        Args:
            step: batches trained.
            state: a pytree of arrays.
            metrics: ``epochs``, how many are finished, at the end of one; ``mel``, the
                validation loss, after a validation.
        """
        try:
            self._manager.save_async(
                step,
                state,
                force=True,
                metrics=dict(metrics),
                custom_metadata=metadata.to_json(),
            )
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Wait for the last save. `RunFailed` if it could not be written."""
        try:
            self._manager.wait()
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Wait for the last save, and let go of the directory."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _failed(self, error: Exception) -> RunFailed:
        reason = " ".join(str(error).split())[:300]
        return RunFailed(f"no checkpoint could be written to {self.directory}: {reason}")


def write_new(run_dir: str | Path, step: int, state: Any, metadata: Metadata) -> Path:
    """Write one checkpoint, into a run directory of its own; whole, or not at all.

    Returns:
        The step's directory.

    Raises:
        UserError: the directory is there already, or cannot be made.
        RunFailed: the disk is full.
    """
    run_dir = Path(run_dir)
    if run_dir.exists() or run_dir.is_symlink():
        raise UserError(
            f"{run_dir}: is there already, and is not overwritten: name a new directory"
        )
    unfinished = run_dir.with_name(f".{run_dir.name}.{os.getpid()}.unfinished")
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
    except OSError as error:
        raise UserError(f"{run_dir}: cannot be made: {error.strerror}") from error
    # Nothing else touches the arrays meanwhile: written as they are, little by little, they
    # take hardly more memory than they have.
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    context.memory.write_concurrent_bytes = _WRITTEN_AT_ONCE
    try:
        with context:
            checkpoints = Checkpoints(unfinished, RunConfig())
            try:
                checkpoints.save(step, state, metadata, {})
            finally:
                checkpoints.close()
        unfinished.rename(run_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return run_dir / DIRECTORY / str(step)


def resolve(path: str | Path) -> Path:
    """The directory of one step, from a run directory (its latest step) or a step's own.

    Raises:
        UserError: there is no checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint: expected a run directory or one step of it")
    for directory in (path / DIRECTORY, path):
        steps = step_directories(directory)
        if steps:
            return steps[-1].absolute()
    if (path / _STATE).is_dir():
        return path.absolute()
    raise UserError(
        f"{path}: no checkpoint in it: expected a run directory with {DIRECTORY}/STEP, "
        "or the directory of one step"
    )


def step_directories(directory: Path) -> list[Path]:
    """The complete steps in a directory of checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    # Unfinished ones have a suffix to the number.
    return sorted((d for d in directory.iterdir() if d.name.isdecimal()), key=lambda d: int(d.name))


@dataclass(frozen=True)
class Contents:
    """What one step's directory holds; `shapes` are the parameters', by network and name."""

    metadata: Metadata
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    has_optimizer: bool


def read_contents(step_dir: Path) -> Contents:
    """All of one step's directory but its arrays."""
    stored = ocp.metadata(step_dir)
    metadata = Metadata.from_json(stored.custom_metadata, step_dir)
    shapes = {
        network: {name: tuple(array.shape) for name, array in arrays.items()}
        for network, arrays in stored.metadata["params"].items()
    }
    return Contents(metadata, shapes, "optimizer" in stored.metadata)


def read_metadata(step_dir: Path) -> Metadata:
    """The metadata of one step's directory."""
    return read_contents(step_dir).metadata


def restore(step_dir: Path, target: Any) -> Any:
    """The arrays of a checkpoint.

    Args:
        step_dir: one step's directory (`resolve`).
        target: the tree that is wanted, of `jax.ShapeDtypeStruct` with ``sharding``: it may
            leave out parts of the checkpoint, and lie on other devices than wrote it.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        try:
            return ocp.load(step_dir, target)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{step_dir}: the checkpoint cannot be read: {reason}") from error


def differences(old: Config, new: Config, may_change: frozenset[str]) -> list[str]:
    """Flags whose values differ, as ``--flag old, now new``, except those that may."""
    found = []
    for section in dataclasses.fields(Config):
        before, now = getattr(old, section.name), getattr(new, section.name)
        for item in dataclasses.fields(before):
            values = getattr(before, item.name), getattr(now, item.name)
            if values[0] != values[1] and item.name not in may_change:
                flag = item.name.replace("_", "-")
                found.append(f"--{flag} was {values[0]} and is now {values[1]}")
    return found
