"""Checkpoints on disk: Orbax, one directory per step.

::

    RUN/checkpoints/STEP/state         step, parameters, optimizer moments, averages if any
    RUN/checkpoints/STEP/…METADATA     `Metadata` as JSON
    RUN/checkpoints/STEP/digests.json  SHA-256 of every file (`digests`)
    RUN/checkpoints/STEP/metrics.json  validation losses (for what is kept), once they are known
    RUN/checkpoints/STEP.damaged       a step that was found not to be what was saved

A step's directory gets its name when it is complete: a run killed while it saves has the
step before. A checkpoint does not depend on the number of devices that wrote it.
"""

from __future__ import annotations

import contextvars
import dataclasses
import importlib.metadata
import json
import logging
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from vits_jax.checkpoints import digests
from vits_jax.checkpoints.digests import Damaged
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.learning_rates import learning_rates
from vits_jax.state import Position, TrainState

_LOGGER = logging.getLogger(__name__)

FORMAT_VERSION = 1
DIRECTORY = "checkpoints"
METRICS = "metrics.json"
_STATE, _METADATA = "state", "_CHECKPOINT_METADATA"  # Orbax's names
_LIBRARIES = ("vits_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class Metadata:
    """All of a checkpoint but its arrays.

    ``position`` is where the run goes on; the learning rates have decayed since
    ``decay_from``, an epoch. ``dataset`` is the dataset's ``config.json``, with the phoneme and
    speaker maps that speaking needs; ``plan`` identifies data and order of the batches.
    """

    config: Config
    position: Position
    dataset: Mapping[str, Any]
    plan: Mapping[str, Any]
    decay_from: int = 0

    def to_json(self) -> dict[str, Any]:
        """What is written."""
        versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
        return {
            "format_version": FORMAT_VERSION,
            "digests": digests.NAME,  # without them it is not whole
            "position": {
                **dataclasses.asdict(self.position),
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
        try:
            return cls(
                config=Config.from_dict(values["config"], str(where)),
                position=Position(
                    values["position"].get("step", _step_of(where)),
                    values["position"]["epoch"],
                    values["position"]["batch"],
                ),
                dataset=values["dataset"],
                plan=values["plan"],
                decay_from=values["position"].get("decay_from", 0),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{where}: damaged: its metadata is not what was saved") from error

    def learning_rates(self) -> tuple[float, float]:
        """Of the generator and the discriminators, in the epoch that comes next."""
        epochs = self.position.epoch - self.decay_from
        return learning_rates(self.config, epochs, self.position.step)


def _step_of(step_dir: Path) -> int:
    """By its name, which is all that the first releases said."""
    return int(step_dir.name) if step_dir.name.isdecimal() else 0


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
    """What one step's directory holds.

    `shapes` are the parameters', by network and name; `moments` are names of those that the
    optimizers keep moments of, and empty where there are no optimizers.
    """

    metadata: Metadata
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    moments: Mapping[str, frozenset[str]]
    has_averages: bool


def read_contents(step_dir: Path) -> Contents:
    """All of one step's directory but its arrays.

    Raises:
        Damaged: a file of it, those with the arrays too, is not what was saved.
        UserError: it is of a later format, or not one of ours.
    """
    sealed = (step_dir / digests.NAME).exists()
    if sealed:
        digests.check(step_dir)
    stored = _read(step_dir, ocp.metadata, step_dir)
    if not sealed and "digests" in (stored.custom_metadata or {}):
        raise Damaged(f"{step_dir / digests.NAME}: missing: it was saved with the rest")
    metadata = Metadata.from_json(stored.custom_metadata, step_dir)
    try:
        state = TrainState.from_dict(stored.metadata)
        shapes = {
            network: {name: tuple(array.shape) for name, array in arrays.items()}
            for network, arrays in state.params.items()
        }
        moments = {network: frozenset(own["mu"]) for network, own in state.optimizer.items()}
        return Contents(metadata, shapes, moments, bool(state.averages))
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{step_dir}: damaged: its index is not what was saved") from error


def read_metadata(step_dir: Path) -> Metadata:
    """The metadata of one step's directory."""
    return read_contents(step_dir).metadata


def written_metadata(step_dir: Path) -> Metadata:
    """The metadata of one step's directory, without Orbax: no device is touched.

    Raises:
        Damaged: it is not what was saved.
        UserError: it is of a later format, or not one of ours.
    """
    path = step_dir / _METADATA
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        values = written["custom_metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path}: damaged: it is not what was saved") from error
    return Metadata.from_json(values, step_dir)


def metrics_of(step_dir: Path) -> dict[str, float]:
    """What is known of a step: metrics (``mel`` …), lower is better; ``epochs`` at an epoch's end.

    Numbers decide what is kept, and nothing else: what cannot be read is not known.
    """
    found: dict[str, float] = {}
    try:
        if (step_dir / METRICS).exists():
            found |= digests.read_sealed(step_dir / METRICS)
        elif (step_dir / "metrics" / "metrics").exists():  # of the first releases
            found |= json.loads((step_dir / "metrics" / "metrics").read_text(encoding="utf-8"))
        written = json.loads((step_dir / _METADATA).read_text(encoding="utf-8"))
        position = written["custom_metadata"]["position"]
        if position["batch"] == 0 < position["epoch"]:
            found["epochs"] = position["epoch"]
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        _LOGGER.warning("%s: what is known of this step cannot be read: %s", step_dir, error)
    return found


def newest_whole(
    run_dir: Path, *, strict: bool = False
) -> tuple[Path, Contents, dict[Path, Damaged]]:
    """The newest step of a run that is what was saved, and the damaged ones after it.

    Args:
        run_dir: a run directory, or its directory of checkpoints, with at least one step.
        strict: refuse where the newest one is damaged.

    Raises:
        UserError: none is whole, or the newest one is not and `strict` is set.
    """
    run_dir = run_dir.absolute()  # Orbax finds nothing under a relative path
    steps = step_directories(run_dir / DIRECTORY) or step_directories(run_dir)
    damaged: dict[Path, Damaged] = {}
    for step_dir in reversed(steps):
        try:
            return step_dir.absolute(), read_contents(step_dir), damaged
        except Damaged as error:
            damaged[step_dir] = error
        if strict:
            raise UserError(
                f"{damaged[step_dir]}: --strict refuses the step before it: leave it out, or put "
                f"a copy of step {step_dir.name} there"
            ) from damaged[step_dir]
    others = f"; none of the {len(steps) - 1} before is whole either" if len(steps) > 1 else ""
    raise UserError(
        f"{damaged[steps[-1]]}{others}: put a copy there, or begin again in another --run-dir"
    ) from damaged[steps[-1]]


def set_aside(damaged: Mapping[Path, Damaged], instead: Path) -> None:
    """Give damaged steps another name, so that they are none any more, and say so.

    Raises:
        UserError: one cannot be renamed.
    """
    for step_dir, error in damaged.items():
        aside = step_dir.with_name(f"{step_dir.name}.damaged")
        number = 1
        while aside.exists():
            number += 1
            aside = step_dir.with_name(f"{step_dir.name}.damaged.{number}")
        try:
            step_dir.rename(aside)
        except OSError as reason:
            raise UserError(
                f"{error}: it cannot be moved aside: {reason.strerror}: remove {step_dir}"
            ) from reason
        _LOGGER.warning(
            "%s: step %s is moved to %s, step %s is used", error, step_dir.name, aside, instead.name
        )


def restore(step_dir: Path, target: Any) -> Any:
    """The arrays of a checkpoint.

    Args:
        step_dir: one step's directory (`resolve`).
        target: the tree that is wanted, of `jax.ShapeDtypeStruct` with ``sharding``: it may
            leave out parts of the checkpoint, and lie on other devices than wrote it.

    Raises:
        Damaged: it cannot be read.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        return _read(step_dir, ocp.load, step_dir, target)


def held(function: Callable[..., Any], *arguments: Any, **more: Any) -> Future[Any]:
    """Call a function of Orbax; the future, which is done, holds its result or its failure.

    Orbax raises what its many parts raise, and ``Exception`` itself.
    """
    with ThreadPoolExecutor(1) as thread:
        context = contextvars.copy_context()  # Orbax's settings are in it
        return thread.submit(context.run, function, *arguments, **more)


def _read(step_dir: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    outcome = held(function, *arguments)
    error = outcome.exception()
    if error is not None:
        reason = " ".join(str(error).split())[:300]
        raise Damaged(f"{step_dir}: the checkpoint cannot be read: {reason}") from error
    return outcome.result()


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
