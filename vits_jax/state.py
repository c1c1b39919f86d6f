"""The state of a training run, and its place in the data.

Whoever makes, trains, saves, converts or reads a state knows its layout from here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.tree_util import register_dataclass
from jax.typing import DTypeLike

from vits_jax.config import Config
from vits_jax.model.kept import anchored
from vits_jax.model.networks import GENERATOR, initial_parameters, parameter_shapes
from vits_jax.model.parameters import Parameters
from vits_jax.model.parts import frozen

OptimizerState = dict[str, Any]  # {"count": int32 [], "mu": Parameters, "nu": Parameters}


@dataclass(frozen=True)
class Position:
    """How far a run is: ``step`` updates done; next is batch ``batch`` of epoch ``epoch``."""

    step: int = 0
    epoch: int = 0
    batch: int = 0


@register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A tree of arrays, by network (``NETWORKS``).

    Attributes:
        step: int32 ``[]``, updates done, skipped ones too.
        params: ``{network: {name: array}}``.
        optimizer: AdamW's moments of each network; empty for weights alone.
        averages: running averages of the generator's parameters, laid out like `params`: of the
            tensors as they are stored, so of both halves of a normed weight. Empty where a run
            keeps none.
        anchors: the generator's parameters that are pulled back to where they began, as they were
            then (`kept.anchored`), laid out like `params`. Empty where a run has none.
    """

    step: Any
    params: dict[str, dict[str, Any]]
    optimizer: dict[str, OptimizerState] = field(default_factory=dict)
    averages: dict[str, dict[str, Any]] = field(default_factory=dict)
    anchors: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def judged(self) -> dict[str, dict[str, Any]]:
        """The parameters that are listened to and validated: averages, where there are any."""
        return {**self.params, **self.averages}

    def to_dict(self) -> dict[str, Any]:
        """As it lies in a checkpoint: without what it does not have."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: part for name, part in parts.items() if name == "step" or part}

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> TrainState:
        """The reverse.

        Raises:
            TypeError: ``step`` or ``params`` is missing, or there is something else.
        """
        return cls(**parts)

    def of(self, networks: Collection[str]) -> TrainState:
        """These networks' alone."""
        own = {
            part: {name: x for name, x in getattr(self, part).items() if name in networks}
            for part in ("params", "optimizer", "averages", "anchors")
        }
        return self.replace(**own)

    def replace(self, **parts: Any) -> TrainState:
        """With other parts."""
        return dataclasses.replace(self, **parts)


def create_state(config: Config, key: jax.Array) -> TrainState:
    """A fresh run's state: step 0, Piper's initial values, AdamW's zero moments."""
    state = fresh_state(initial_parameters(config, key), frozen(config))
    return begin_averages(state) if config.optimizer.ema_decay else state


def fresh_state(
    params: dict[str, Parameters], without: Mapping[str, Collection[str]] | None = None
) -> TrainState:
    """At step 0 with these parameters, both moments of each zero.

    Args:
        params: ``{network: {name: array}}``.
        without: by network, tensors that have no moments (`parts.frozen`).
    """
    optimizer = {}
    for network, own in params.items():
        none = (without or {}).get(network, ())
        learning = {name: p for name, p in own.items() if name not in none}
        # As `optax.scale_by_adam` keeps it.
        moments = {moment: _zeros(learning) for moment in ("mu", "nu")}
        optimizer[network] = {"count": jnp.zeros((), jnp.int32), **moments}
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer)


def begin_averages(state: TrainState) -> TrainState:
    """With averages that begin here: copies of the generator's parameters, the host's."""
    return state.replace(averages={GENERATOR: jax.tree.map(_copy, state.params[GENERATOR])})


def begin_anchors(state: TrainState, config: Config) -> TrainState:
    """With anchors here, where the run has some: copies of parameters, the host's."""
    names = anchored(config)
    own = {name: _copy(p) for name, p in state.params[GENERATOR].items() if name in names}
    return state.replace(anchors={GENERATOR: own} if own else {})


def _copy(array: Any) -> Any:
    return array if isinstance(array, jax.core.Tracer) else np.array(array)


def with_moments_of(state: TrainState, target: TrainState) -> TrainState:
    """With the target's moments and no others: what the state has none of begins at zero.

    Args:
        state: whole, of any arrays.
        target: of `jax.ShapeDtypeStruct` with ``sharding``.
    """
    optimizer = {}
    for network, wanted in target.optimizer.items():
        own = dict(state.optimizer[network])
        for moment in ("mu", "nu"):
            own[moment] = {
                name: own[moment][name]
                if name in own.get(moment, {})
                else jax.device_put(np.zeros(t.shape, t.dtype), t.sharding)
                for name, t in wanted[moment].items()
            }
        optimizer[network] = own
    return state.replace(optimizer=optimizer)


def _zeros(params: Parameters) -> Parameters:
    """The host's, if `params` are."""

    def of(array: Any) -> Any:
        host = isinstance(array, np.ndarray)
        return np.zeros(array.shape, array.dtype) if host else jnp.zeros_like(array)

    return jax.tree.map(of, params)


def abstract_state(
    config: Config, sharding: Sharding | None = None, dtype: DTypeLike = jnp.float32
) -> TrainState:
    """A whole state's shapes, of `jax.ShapeDtypeStruct`.

    Args:
        sharding: of every array.
        dtype: of parameters and moments.
    """
    params = {
        network: {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}
        for network, shapes in parameter_shapes(config).items()
    }
    state = jax.eval_shape(functools.partial(fresh_state, without=frozen(config)), params)
    if config.optimizer.ema_decay:
        state = state.replace(averages={GENERATOR: params[GENERATOR]})
    if names := anchored(config):
        own = {name: p for name, p in params[GENERATOR].items() if name in names}
        state = state.replace(anchors={GENERATOR: own})
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
    )
