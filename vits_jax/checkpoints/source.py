"""Any checkpoint, wherever one is named: a run of ours, a step of it, or Piper's ``.ckpt``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Sharding

from vits_jax.buckets import is_remote
from vits_jax.checkpoints import store
from vits_jax.checkpoints.digests import Damaged
from vits_jax.checkpoints.piper import reading as piper
from vits_jax.checkpoints.remote import fetched
from vits_jax.checkpoints.saving import best_step
from vits_jax.checkpoints.store import Metadata
from vits_jax.data.voice_config import read_voice_config
from vits_jax.errors import UserError
from vits_jax.model.networks import DISCRIMINATOR, GENERATOR, parameter_shapes
from vits_jax.model.parameters import Parameters
from vits_jax.state import OptimizerState, TrainState, with_moments_of

_LOGGER = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

UNHEARD = ("enc_q.", "dp.post_", "dp.flows.1.")
"""Beginnings of the generator's parameters that speaking never reads: voices lack them."""


class Source(Protocol):
    """A checkpoint to take things from.

    Attributes:
        where: its path, for messages.
        metadata: all of it but the arrays.
        shapes: ``{"model_g": {name: shape}, "model_d": ...}`` of the parameters it has;
            a voice that was published without its discriminators lacks ``model_d``, one that was
            trained without `--use-mrd` ``model_mrd``.
        unused: names of tensors that no network here has.
        averaged: whether it has averages of the generator's parameters too.
        whole: whether it has the optimizer's state, so that a run can go on from it.
    """

    @property
    def where(self) -> Path: ...
    @property
    def metadata(self) -> Metadata: ...
    @property
    def shapes(self) -> Mapping[str, Shapes]: ...
    @property
    def unused(self) -> Sequence[str]: ...
    @property
    def averaged(self) -> bool: ...
    @property
    def whole(self) -> bool: ...

    def parameters(
        self, names: Mapping[str, Collection[str]], sharding: Sharding
    ) -> dict[str, Parameters]:
        """Some parameters, by network and name."""

    def generator(self, sharding: Sharding, averages: bool = False) -> Parameters:
        """The generator's parameters, or their averages; what speaking never reads may be zero."""

    def state(self, target: TrainState) -> TrainState:
        """The whole state, for a target of `jax.ShapeDtypeStruct` with ``sharding``; of the
        networks that the target has, each of which it must have.

        Averages, which it may have, are left where the target has none.

        Raises:
            UserError: it has weights alone, or not all of them.
        """


@dataclass(frozen=True)
class _Stored:
    """One step of a run of ours."""

    where: Path
    contents: store.Contents
    unused: Sequence[str] = ()

    @property
    def averaged(self) -> bool:
        return self.contents.has_averages

    @property
    def whole(self) -> bool:
        return bool(self.contents.moments)

    @property
    def metadata(self) -> Metadata:
        return self.contents.metadata

    @property
    def shapes(self) -> Mapping[str, Shapes]:
        return self.contents.shapes

    def parameters(
        self, names: Mapping[str, Collection[str]], sharding: Sharding
    ) -> dict[str, Parameters]:
        return self._restored("params", names, sharding)

    def _restored(
        self, part: str, names: Mapping[str, Collection[str]], sharding: Sharding
    ) -> dict[str, Parameters]:
        """Of a part of the state that is laid out like its parameters."""
        wanted = {
            network: {
                n: jax.ShapeDtypeStruct(self.shapes[network][n], np.float32, sharding=sharding)
                for n in some
            }
            for network, some in names.items()
        }
        return store.restore(self.where, {part: wanted})[part]

    def generator(self, sharding: Sharding, averages: bool = False) -> Parameters:
        needed, stored = parameter_shapes(self.metadata.config)[GENERATOR], self.shapes[GENERATOR]
        absent = [name for name in needed if name not in stored]
        lost = [name for name in absent if not name.startswith(UNHEARD)]
        if lost:
            raise UserError(f"{self.where}: the checkpoint lacks {', '.join(lost)}")
        part = "averages" if averages else "params"
        parameters = self._restored(part, {GENERATOR: stored}, sharding)[GENERATOR]
        zeros = {name: np.zeros(needed[name], np.float32) for name in absent}
        return parameters | jax.device_put(zeros, sharding)

    def state(self, target: TrainState) -> TrainState:
        if not self.whole:
            raise UserError(
                f"{self.where}: it has no optimizer state: it cannot be continued; to start a new "
                "run from its weights use --warmstart_ckpt"
            )
        wanted = target.replace(optimizer=self._there(target)).to_dict()
        return with_moments_of(TrainState.from_dict(store.restore(self.where, wanted)), target)

    def _there(self, target: TrainState) -> dict[str, OptimizerState]:
        """Of the moments that are wanted, those that were saved."""
        found: dict[str, OptimizerState] = {}
        for network, own in target.optimizer.items():
            names = self.contents.moments[network]
            moments = {
                moment: {name: x for name, x in own[moment].items() if name in names}
                for moment in ("mu", "nu")
            }
            # Orbax does not take none of a part for a part of it.
            saved = {moment: some for moment, some in moments.items() if some}
            found[network] = {"count": own["count"], **saved}
        return found


@dataclass(frozen=True)
class _Piper:
    """A ``.ckpt`` of Piper's trainers, its tensors mapped from the file."""

    where: Path
    checkpoint: piper.PiperCheckpoint

    @property
    def metadata(self) -> Metadata:
        return self.checkpoint.metadata

    @property
    def unused(self) -> Sequence[str]:
        return self.checkpoint.left

    @property
    def averaged(self) -> bool:
        return bool(self.checkpoint.averages)

    @property
    def whole(self) -> bool:
        return bool(self.checkpoint.optimizer)

    @property
    def shapes(self) -> Mapping[str, Shapes]:
        params = self.checkpoint.params
        return {network: {n: a.shape for n, a in params[network].items()} for network in params}

    def parameters(
        self, names: Mapping[str, Collection[str]], sharding: Sharding
    ) -> dict[str, Parameters]:
        params = self.checkpoint.params
        return {
            network: {n: _put(params[network][n], sharding) for n in some}
            for network, some in names.items()
        }

    def generator(self, sharding: Sharding, averages: bool = False) -> Parameters:
        checkpoint = self.checkpoint
        arrays = (checkpoint.averages if averages else checkpoint.params)[GENERATOR]
        return {name: _put(array, sharding) for name, array in arrays.items()}

    def state(self, target: TrainState) -> TrainState:
        whole = numpy_state(self.checkpoint, self.where).of(target.params)
        if not target.averages:
            whole = whole.replace(averages={})
        whole = with_moments_of(whole, target)
        return jax.tree.map(
            lambda x, t: _put(x.astype(t.dtype, copy=False), t.sharding), whole, target
        )


def _put(array: np.ndarray, sharding: Sharding) -> jax.Array:
    return jax.device_put(array.copy(), sharding)  # the file may change, and a state is donated


def numpy_state(checkpoint: piper.PiperCheckpoint, where: Path) -> TrainState:
    """The state of a run that a ``.ckpt`` holds, as numpy arrays.

    Raises:
        UserError: it has no optimizer state.
    """
    if not checkpoint.optimizer:
        lacks = "optimizer state" if DISCRIMINATOR in checkpoint.params else "discriminators"
        raise UserError(
            f"{where}: it has no {lacks}: it cannot be continued; "
            "to start a new run from its weights use --warmstart_ckpt"
        )
    optimizers = {
        network: moments | {"count": np.array(moments["count"], np.int32)}
        for network, moments in checkpoint.optimizer.items()
    }
    step = np.array(checkpoint.step, np.int32)
    return TrainState(step, checkpoint.params, optimizers, checkpoint.averages)


def open_checkpoint(
    path: str | Path, voice_config: str | Path | None = None, *, best: bool = False
) -> Source:
    """A run directory (its latest step), one step's directory, or a ``.ckpt``.

    Of a run in an object store the newest whole step comes here.

    Args:
        voice_config: the ``config.json`` of the dataset that a ``.ckpt`` was trained on.
        best: of a run directory the best step that is kept, not its latest.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    if best and is_remote(path):
        raise UserError(f"--best {path}: of a run in an object store the newest step alone is read")
    path = fetched(str(path)) if is_remote(path) else Path(path)
    if best and not (path / store.DIRECTORY).is_dir():
        raise UserError(f"--best {path}: expected a run directory, to choose among its steps")
    if path.suffix == ".ckpt" and not path.is_dir():
        voice = None if voice_config is None else read_voice_config(Path(voice_config))
        return _Piper(path, piper.read(path, voice))
    step_dir = store.resolve(path)
    if best:
        step_dir = best_step(path)
    if best or step_dir == path.absolute():
        return _Stored(step_dir, store.read_contents(step_dir))
    source, damaged = open_newest(path)
    for error in damaged.values():
        _LOGGER.warning("%s: step %s is used", error, source.where.name)
    return source


def open_newest(run_dir: Path, *, strict: bool = False) -> tuple[Source, dict[Path, Damaged]]:
    """The newest whole step of a run, and the damaged ones after it; see `store.newest_whole`."""
    step_dir, contents, damaged = store.newest_whole(run_dir, strict=strict)
    return _Stored(step_dir, contents), damaged
