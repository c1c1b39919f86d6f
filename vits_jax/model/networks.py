"""The networks of a configuration: as modules without values, and freshly initialised."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from vits_jax.config import AudioConfig, Config, ModelConfig
from vits_jax.model.discriminator import MultiPeriodDiscriminator
from vits_jax.model.layers import WeightNorm
from vits_jax.model.multi_resolution import AllDiscriminators, MultiResolutionDiscriminator
from vits_jax.model.parameters import Parameters, flatten
from vits_jax.model.synthesizer import Synthesizer

GENERATOR, DISCRIMINATOR = NETWORKS = ("model_g", "model_d")
"""Names of the networks, in a state and in its checkpoints; Piper's, who numbers them so."""

MULTI_RESOLUTION = "model_mrd"
"""With `--use-mrd` a network of its own there, beside the other discriminators (`judges_of`)."""

T = TypeVar("T")
_OF_MULTI_RESOLUTION = f"{MULTI_RESOLUTION}."


def judges_of(params: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """Of all networks ``{network: {name: …}}`` the discriminators, as one network: ``{name: …}``.

    Those of spectra, if there are any, come last, as in Piper's optimizer.
    """
    more = params.get(MULTI_RESOLUTION, {})
    return {**params[DISCRIMINATOR], **{f"{_OF_MULTI_RESOLUTION}{n}": x for n, x in more.items()}}


def apart(judges: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The reverse, ``{network: {name: …}}`` of the discriminators."""
    networks: dict[str, dict[str, T]] = {DISCRIMINATOR: {}}
    for name, x in judges.items():
        own = name.removeprefix(_OF_MULTI_RESOLUTION)
        network = DISCRIMINATOR if own == name else MULTI_RESOLUTION
        networks.setdefault(network, {})[own] = x
    return networks


class Networks(NamedTuple):
    """Modules to ``bind`` parameters to; their own are shapes only.

    Parameters of ``discriminator`` are those of `judges_of`.
    """

    generator: Synthesizer
    discriminator: MultiPeriodDiscriminator


def _build(model: ModelConfig, audio: AudioConfig, draws: _Draws) -> Networks:
    rngs = cast(nnx.Rngs, draws)  # has the two methods of it that the layers call
    discriminators = AllDiscriminators if model.use_mrd else MultiPeriodDiscriminator
    return Networks(Synthesizer(model, audio, rngs=rngs), discriminators(model, rngs=rngs))


class _Draws:
    """Numbers for the initial values, cut one after another from two long draws.

    A draw for each of some 400 tensors would take XLA over a minute to compile. Without
    the draws all numbers are zero, which counts how many it takes.
    """

    def __init__(self, uniform: jax.Array | None = None, normal: jax.Array | None = None):
        self.sources = {"uniform": uniform, "normal": normal}
        self.used = {"uniform": 0, "normal": 0}

    def _take(self, kind: str, shape: tuple[int, ...]) -> jax.Array:
        source, start = self.sources[kind], self.used[kind]
        self.used[kind] = end = start + math.prod(shape)
        return jnp.zeros(shape) if source is None else source[start:end].reshape(shape)

    def uniform(self, shape: tuple[int, ...]) -> jax.Array:
        """Numbers from U(0, 1), float32 ``[*shape]``."""
        return self._take("uniform", shape)

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        """Numbers from N(0, 1), float32 ``[*shape]``."""
        return self._take("normal", shape)


class Structure(NamedTuple):
    """All of the networks but their parameters' values.

    Attributes:
        networks: modules whose parameters are shapes.
        shapes: ``{"model_g": {name: shape}, "model_d": ...}``.
        draws: how many uniform and normal numbers the initial values take.
    """

    networks: Networks
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    draws: Mapping[str, int]


@functools.lru_cache(maxsize=16)
def structure(model: ModelConfig, audio: AudioConfig) -> Structure:
    """The networks of these sizes; nothing is computed. Building them takes over a second."""
    shapes: dict[str, Mapping[str, tuple[int, ...]]] = {}
    counting = _Draws()

    def build() -> Networks:
        networks = _build(model, audio, counting)
        found = {GENERATOR: dict(_walk(networks.generator))}
        found |= apart(dict(_walk(networks.discriminator)))
        shapes.update({name: types.MappingProxyType(own) for name, own in found.items()})
        return networks

    # The modules themselves come out of it with their parts sorted.
    return Structure(nnx.eval_shape(build), types.MappingProxyType(shapes), counting.used)


def abstract_networks(config: Config) -> Networks:
    """The networks' structure, to ``bind`` parameters to; it may not be changed."""
    return structure(config.model, config.audio).networks


@functools.lru_cache(maxsize=16)
def _folded(model: ModelConfig, audio: AudioConfig) -> Networks:
    networks = nnx.clone(structure(model, audio).networks)
    for network in networks:
        for _, module in nnx.iter_graph(network):
            if isinstance(module, WeightNorm):
                module.fold()
    return networks


def folded_networks(config: Config) -> Networks:
    """As `abstract_networks`, for parameters whose weights are computed (`weight_norm.fold`)."""
    return _folded(config.model, config.audio)


def parameter_shapes(config: Config) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
    """Shapes of all parameters, ``{"model_g": {name: shape}, "model_d": ...}``.

    In the order of PyTorch's ``parameters()``, by which Piper's optimizers number them: a
    module's own first, then its children's, each in the order in which they were made.
    """
    return structure(config.model, config.audio).shapes


@functools.cache
def multi_resolution_shapes() -> Mapping[str, tuple[int, ...]]:
    """Shapes of the parameters of ``model_mrd``, which hang on no configuration."""
    shapes: dict[str, tuple[int, ...]] = {}

    def build() -> None:
        rngs = cast(nnx.Rngs, _Draws())
        shapes.update(_walk(MultiResolutionDiscriminator(rngs=rngs)))

    jax.eval_shape(build)
    return types.MappingProxyType(shapes)


def _walk(module: Any, prefix: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    parts = dict(enumerate(module)) if isinstance(module, nnx.List) else vars(module)
    for name, part in parts.items():
        if isinstance(part, nnx.Variable):
            yield f"{prefix}{name}", part.shape
    for name, part in parts.items():
        if isinstance(part, (nnx.Module, nnx.List)):
            yield from _walk(part, f"{prefix}{name}.")


def initial_parameters(config: Config, key: jax.Array) -> dict[str, Parameters]:
    """Piper's initial values, ``{"model_g": {name: array}, "model_d": ...}``; pure in ``key``.

    Outside of `jax.jit` they are the host's: a program of these 400 pieces takes longer to compile
    than the host to cut and scale them.
    """
    number = structure(config.model, config.audio).draws
    for_uniform, for_normal = jax.random.split(key)
    uniform = jax.random.uniform(for_uniform, (number["uniform"],))
    normal = jax.random.normal(for_normal, (number["normal"],))
    if not isinstance(key, jax.core.Tracer):
        uniform, normal = jax.device_get((uniform, normal))
    draws = _Draws(uniform, normal)
    generator, discriminator = _build(config.model, config.audio, draws)
    return {GENERATOR: flatten(generator), **apart(flatten(discriminator))}
