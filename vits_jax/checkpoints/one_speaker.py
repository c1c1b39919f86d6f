"""One speaker of a checkpoint with several, as a checkpoint with one that says the same.

Tensors that hear the speaker go into biases of others (`speaker_folds`), the weights' and the
averages' each by themselves. All else is as it was: the other tensors, the discriminators, who do
not hear speakers, and the moments of the optimizer, as the gradient to a bias does not change with
what is added to it. (With plain durations ``enc_p.proj.weight`` has another one from there on: what
it is multiplied with was shifted.)
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from vits_jax.checkpoints import saving
from vits_jax.checkpoints.source import UNHEARD, Source
from vits_jax.checkpoints.speaker_folds import EMBEDDING, Arrays, Fold, folds
from vits_jax.checkpoints.store import Metadata
from vits_jax.checkpoints.warm_start import hears_speaker
from vits_jax.config import OFF, Config
from vits_jax.data.speakers import mixture
from vits_jax.errors import UserError
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.model.parts import has_part
from vits_jax.state import TrainState, abstract_state

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    """What becomes of each tensor of a checkpoint, by ``network.name``.

    Attributes:
        copied: they are as they were.
        folds: of what hears the speaker, where it goes.
        gone: they are not there any more: the embedding, and the layers of `folds`.
        left: no network here has them.
    """

    copied: list[str]
    folds: list[Fold]
    gone: list[str]
    left: list[str]

    @property
    def changed(self) -> list[str]:
        """Those with the speaker in them."""
        return [f"{GENERATOR}.{name}" for fold in self.folds for name in fold.changed]

    def log(self) -> None:
        """Where the speaker is now; tensor by tensor at debug level."""
        for fold in self.folds:
            first, last = fold.changed[0], fold.changed[-1]
            into = first if first == last else f"{first} … {last} ({len(fold.changed)})"
            _LOGGER.info("%s: is in %s", fold.layer, into)
        for what in ("copied", "changed", "gone"):
            for name in getattr(self, what):
                _LOGGER.debug("%s: %s", what, name)
        for name in self.left:
            _LOGGER.info("left out: %s", name)


def account(source: Source) -> Account:
    """Of a checkpoint with several speakers.

    What a voice never holds (`UNHEARD`) may be missing.

    Raises:
        UserError: tensors that cannot be accounted for: all of them in one line.
    """
    expected = parameter_shapes(source.metadata.config)
    after = parameter_shapes(single(source.metadata.config))
    wrong: list[str] = []
    copied: list[str] = []
    gone: list[str] = []
    for network, shapes in source.shapes.items():
        heard = [n for n in expected.get(network, {}) if not n.startswith(UNHEARD)]
        wrong += [f"{network}.{name}: missing" for name in heard if name not in shapes]
        for name, shape in shapes.items():
            full, hears = f"{network}.{name}", network == GENERATOR and hears_speaker(name)
            (gone if hears else copied).append(full)
            wanted = (expected if hears else after).get(network, {}).get(name)
            if wanted != shape:
                shown = "none" if wanted is None else list(wanted)
                wrong.append(f"{full}: got {list(shape)}, expected {shown}")
    generator, found = source.shapes[GENERATOR], []
    for fold in folds(expected[GENERATOR]):
        layer = [name for name in expected[GENERATOR] if name.startswith(f"{fold.layer}.")]
        absent = [name for name in (*layer, *fold.changed) if name not in generator]
        if len(absent) < len(layer) + len(fold.changed):
            found.append(fold)
            wrong += [f"{GENERATOR}.{name}: missing" for name in absent if name.startswith(UNHEARD)]
    known = [EMBEDDING, *(f"{fold.layer}." for fold in found)]
    wrong += [
        f"{GENERATOR}.{name}: it hears the speaker, and it is not known where that goes"
        for name in expected[GENERATOR]
        if hears_speaker(name) and name in generator and not name.startswith(tuple(known))
    ]
    if wrong:
        raise UserError(f"{source.where}: not all tensors can be accounted for: {'; '.join(wrong)}")
    changed = {f"{GENERATOR}.{name}" for fold in found for name in fold.changed}
    copied = [name for name in copied if name not in changed]
    return Account(copied, found, gone, list(source.unused))


def single(config: Config) -> Config:
    """The configuration of the same voice with one speaker."""
    config = config.replaced({"num_speakers": 1, "gin_channels": 0})
    shapes, o = parameter_shapes(config), config.optimizer
    parts = {
        "part_rates": [w for w in o.part_rates if has_part(shapes, w.rpartition("=")[0].strip())],
        "freeze": [part for part in o.freeze if has_part(shapes, part)],
    }
    others = {"keep_speakers": OFF, "kept_speakers": (), "kept_fresh": ()}  # who are gone
    return config.replaced({**{name: tuple(own) for name, own in parts.items()}, **others})


class OneSpeaker(NamedTuple):
    """A checkpoint with one speaker, in memory."""

    who: str  # for messages
    state: TrainState  # of numpy arrays
    metadata: Metadata
    account: Account  # of the checkpoint that it is out of

    def write(self, out: str | Path) -> Path:
        """Write it as a run directory with this step alone; whole, or not at all.

        Returns:
            The step's directory.

        Raises:
            UserError: `out` is there already, or cannot be made.
            RunFailed: the disk is full.
        """
        step = self.metadata.position.step
        step_dir = saving.write_new(out, step, self.state.to_dict(), self.metadata)
        what = self.account
        what.log()
        _LOGGER.info(
            "%s: %s: %d tensors as they were, %d with the speaker in them, %d of speakers gone%s",
            *(step_dir, self.who, len(what.copied), len(what.changed), len(what.gone)),
            ""
            if self.state.optimizer
            else "; weights alone, it cannot be continued: --warmstart_ckpt starts from it",
        )
        return step_dir


def extract(source: Source, speaker: str) -> OneSpeaker:
    """One speaker of a checkpoint, or one who is a mixture of several: of their embeddings.

    Weights and, where it has them, their averages, each with its own embedding.

    Args:
        speaker: as `vits_jax.data.speakers.mixture` takes it.

    Raises:
        UserError: the checkpoint has one speaker, or no such one, or weights that are not finite;
            or as of `account`.
    """
    metadata = source.metadata
    count = metadata.config.model.num_speakers
    if count == 1:
        raise UserError(f"{source.where}: it has one speaker: expected a checkpoint with several")
    known = metadata.dataset.get("speaker_id_map") or {}
    try:
        shares = mixture(speaker, known, count)
    except UserError as error:
        raise UserError(f"--speaker {speaker}: {error}") from error
    what = account(source)
    state = _with(_state(source), lambda parameters: _folded(parameters, what, shares, source))
    metadata = dataclasses.replace(
        metadata,
        config=single(metadata.config),
        # Its data will be others: it goes on at the start of an epoch.
        position=dataclasses.replace(metadata.position, batch=0),
        dataset={**metadata.dataset, "num_speakers": 1, "speaker_id_map": {}},
        plan={},
    )
    return OneSpeaker(_said(shares, known), state, metadata, what)


def _said(shares: Mapping[int, float], known: Mapping[str, int]) -> str:
    """``anna``, or ``0.7 anna + 0.3 speaker 2``."""
    names = {number: name for name, number in known.items()}
    who = {number: names.get(number, f"speaker {number}") for number in shares}
    if len(shares) == 1:
        return next(iter(who.values()))
    return " + ".join(f"{share:.3g} {who[number]}" for number, share in shares.items())


def _state(source: Source) -> TrainState:
    """All that a checkpoint has, as numpy arrays."""
    device = SingleDeviceSharding(jax.devices()[0])
    if source.whole:
        target = abstract_state(source.metadata.config, device).replace(averages={})
        state = source.state(target.of(source.shapes))
    else:
        step = np.array(source.metadata.position.step, np.int32)
        state = TrainState(step, source.parameters(source.shapes, device))
    if source.averaged:
        averages = source.generator(device, averages=True)
        own = {name: averages[name] for name in source.shapes[GENERATOR]}
        state = state.replace(averages={GENERATOR: own})
    return cast(TrainState, jax.device_get(state))


def _with(state: TrainState, folded: Callable[[Arrays], Arrays]) -> TrainState:
    """A state without what hears the speaker, its parameters and averages `folded`."""

    def of(networks: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
        return {n: change(own) if n == GENERATOR else own for n, own in networks.items()}

    def moments(own: Mapping[str, Any]) -> dict[str, Any]:
        return {**own, "mu": _without(own["mu"]), "nu": _without(own["nu"])}

    return TrainState(
        state.step,
        of(state.params, folded),
        of(state.optimizer, moments),
        of(state.averages, folded),
    )


def _folded(
    parameters: Arrays, what: Account, shares: Mapping[int, float], source: Source
) -> Arrays:
    """A generator's parameters, or their averages, with the speaker in the biases."""
    embeddings = parameters[EMBEDDING].astype(np.float64)
    g = np.sum([share * embeddings[number] for number, share in shares.items()], axis=0)
    result = _without(parameters)
    for fold in what.folds:
        result |= fold.apply(parameters, g)
    broken = [name for name, array in result.items() if not np.isfinite(array).all()]
    if broken:
        raise UserError(
            f"{source.where}: the voice's weights are not finite ({len(broken)} of {len(result)} "
            f"tensors, such as {broken[0]}): use a checkpoint from before it was broken"
        )
    return result


def _without(own: Mapping[str, np.ndarray]) -> Arrays:
    return {name: array for name, array in own.items() if not hears_speaker(name)}
