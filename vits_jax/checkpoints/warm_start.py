"""What of a checkpoint begins a new run: filters over the flat dict of parameters.

Two kinds. A *speaker conversion* turns a single-speaker checkpoint into a multi-speaker
model (`from_single_speaker`): everything but the layers that hear the speaker. A *warm
start* takes what fits (`warm_start`), what can be made to fit (`growing`), and of the tables of
speakers and symbols the rows that mean the same, by name, or sound alike.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vits_jax.checkpoints.growing import NO_RULE, SAME, Growth
from vits_jax.checkpoints.source import Shapes, Source
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.model.parameters import Parameters
from vits_jax.text.likeness import NoPhonetics, nearest_by_sound

_LOGGER = logging.getLogger(__name__)

VOCODER = ("dec.", "enc_q.", "flow.")  # what piper1's --vocoder_warmstart_ckpt takes
_MOST_SHOWN = 30
_SPEAKERS, _SYMBOLS = "emb_g.weight", "enc_p.emb.weight"


@dataclass(frozen=True)
class Rows:
    """Row ``source[i]`` of a table becomes row ``target[i]``; `alike` says which do by sound."""

    target: np.ndarray
    source: np.ndarray
    alike: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Transfer:
    """What is taken, what stays fresh and what is left, by ``network.name``, with reasons.

    Taken and fresh together are all tensors of the new model; every tensor of the
    checkpoint is taken or left. Of a table in `rows` only those rows are taken. What is in
    `grown`, tensors of the generator, is taken as `growth` makes it.
    """

    taken: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    grown: set[str] = field(default_factory=set)
    growth: Growth | None = None

    def apply(self, fresh: dict[str, Parameters], source: Source) -> dict[str, Parameters]:
        """The new model's parameters; `fresh` are its initial ones."""
        sharding = jnp.asarray(fresh[GENERATOR][_SYMBOLS]).sharding  # `fresh` may be the host's
        wanted: dict[str, dict[str, None]] = {}
        for full in self.taken:
            network, _, name = full.partition(".")
            needed = self.growth.needs(name) if self.growth and full in self.grown else (name,)
            wanted.setdefault(network, {}).update(dict.fromkeys(needed))
        there = source.parameters(wanted, sharding)
        result = {network: dict(parameters) for network, parameters in fresh.items()}
        for full in self.taken:
            network, _, name = full.partition(".")
            array = there[network][name]
            if self.growth and full in self.grown:
                old = {n: np.asarray(there[network][n]) for n in self.growth.needs(name)}
                array = jax.device_put(self.growth.tensor(name, old), sharding)
            if full in self.rows:
                rows, own = self.rows[full], jnp.asarray(fresh[network][name])
                array = own.at[rows.target].set(array[rows.source])
            result[network][name] = array
        return result

    def log(self, what: str, source: Source) -> None:
        """Tensor by tensor at debug level; one summary that names what is not taken."""
        for kind in ("taken", "fresh", "left"):
            for name, reason in getattr(self, kind).items():
                _LOGGER.debug("%s: %s: %s", kind, name, reason)
        for name, rows in self.rows.items():
            _LOGGER.info("%s: %d rows of %s", what, len(rows.target), name)
            alike = ", ".join(f"{new} as {old}" for new, old in rows.alike.items())
            if alike:
                _LOGGER.info("%s: symbols that are new to it begin as the nearest: %s", what, alike)
        _LOGGER.info(
            "%s %s: %d tensors taken%s, %d fresh%s, %d left in it%s",
            *(what, source.where, len(self.taken)),
            f" ({len(self.grown)} of them changed to fit)" if self.grown else "",
            *(len(self.fresh), _by_reason(self.fresh)),
            *(len(self.left), f" ({', '.join(_shown(self.left))})" if self.left else ""),
        )


def _by_reason(tensors: Mapping[str, str]) -> str:
    """The names in brackets, after what they have of their reasons before the colon."""
    found: dict[str, list[str]] = {}
    for name, reason in tensors.items():
        found.setdefault(reason.partition(":")[0], []).append(name)
    said = "; ".join(f"{reason}: {', '.join(_shown(names))}" for reason, names in found.items())
    return f" ({said})" if said else ""


def _shown(names: Collection[str]) -> list[str]:
    """Names of tensors; of too many to be read, how many of which modules."""
    if len(names) <= _MOST_SHOWN:
        return list(names)
    modules = Counter(".".join(name.split(".")[:3]) for name in names)
    return [f"{module} ({count})" for module, count in modules.items()]


def hears_speaker(name: str) -> bool:
    """Whether a generator's tensor is there for the speaker: absent from a single-speaker
    model, fresh after the conversion (the filter of Piper's trainer, and the embedding)."""
    return name.startswith(("dec.cond", "dp.cond", "emb_g")) or "enc.cond_layer" in name


def from_single_speaker(
    source: Source, target: Mapping[str, Shapes], unwanted: Mapping[str, str] | None = None
) -> Transfer:
    """Everything of a single-speaker checkpoint, into a multi-speaker model.

    Args:
        source: the checkpoint.
        target: shapes of the new model.
        unwanted: what is not to be taken though it fits, by ``network.name``, and why.

    Raises:
        UserError: the model has one speaker or the checkpoint several, or a tensor is
            missing, superfluous or of another shape; all of them in one line.
    """
    flag = "--resume_from_single_speaker_checkpoint"
    if _SPEAKERS not in target[GENERATOR]:
        raise UserError(
            f"{flag}: the dataset has num_speakers 1, expected more: "
            "to go on with the same speaker use --resume_from_checkpoint"
        )
    speakers = source.metadata.config.model.num_speakers
    if speakers > 1:
        raise UserError(
            f"{flag} {source.where}: it has {speakers} speakers, expected one: "
            "to go on with its speakers use --resume_from_checkpoint, for others --warmstart_ckpt"
        )
    transfer, wrong, unwanted = Transfer(), [], unwanted or {}
    there, here = _flat(source.shapes), _flat(target)
    for name, shape in here.items():
        network, _, bare = name.partition(".")
        if network == GENERATOR and hears_speaker(bare):
            transfer.fresh[name] = "it hears the speaker"
        elif name in unwanted:
            transfer.fresh[name] = unwanted[name]
        elif network not in source.shapes:
            transfer.fresh[name] = f"the checkpoint has no {network}"
        elif name not in there:
            wrong.append(f"{name}: missing, expected {shape}")
        elif there[name] != shape:
            wrong.append(f"{name}: got {there[name]}, expected {shape}")
        else:
            transfer.taken[name] = "the same in both"
    for name in there:
        if name in transfer.fresh:
            transfer.left[name] = transfer.fresh[name]
        elif name.partition(".")[0] not in target:
            transfer.left[name] = "the model has none"
        elif name not in here:
            wrong.append(f"{name}: got {there[name]}, expected none")
    if wrong:
        raise UserError(
            f"{flag} {source.where}: another model: {'; '.join(wrong)}: "
            "--warmstart_ckpt takes what fits"
        )
    transfer.left.update(dict.fromkeys(source.unused, "the model has none"))
    return transfer


def warm_start(
    source: Source,
    config: Config,
    dataset: Mapping[str, Any],
    only: tuple[str, ...] = (),
    unwanted: Mapping[str, str] | None = None,
) -> Transfer:
    """Every tensor that is the same in name and shape, or grows to it (`Growth`).

    Of the tables of speakers and symbols the rows that both ``config.json``s name, wherever
    they stand, and for symbols that are new those that they sound most like; the table as a whole
    where one of the two does not say what its rows mean.

    Args:
        source: the checkpoint.
        config: of the new model.
        dataset: ``config.json`` of the new model's dataset.
        only: take generator tensors with these beginnings alone (`VOCODER`).
        unwanted: what is not to be taken though it fits, by ``network.name``, and why.

    Raises:
        UserError: nothing fits.
    """
    target = parameter_shapes(config)
    growth = Growth(source.metadata.config, config, source.shapes[GENERATOR], target[GENERATOR])
    transfer, unwanted = Transfer(growth=growth), unwanted or {}
    there, here = _flat(source.shapes), _flat(target)
    asked = {
        name: not only or name.startswith(tuple(f"{GENERATOR}.{prefix}" for prefix in only))
        for name in here
    }
    rows = _rows(source, target, dataset, {n for n in here if asked[n] and n not in unwanted})
    for name, shape in here.items():
        network, _, bare = name.partition(".")
        rule: str | None = None
        if name in there and network == GENERATOR:
            rule = growth.rule(bare, rows=name in rows)
        elif name in there and there[name] == shape:
            rule = SAME
        if not asked[name]:
            transfer.fresh[name] = "not asked for"
        elif name in unwanted:
            transfer.fresh[name] = unwanted[name]
        elif name not in there:
            transfer.fresh[name] = "the checkpoint has none"
        elif rule is None:
            transfer.fresh[name] = f"{NO_RULE}: got {there[name]}, expected {shape}"
        elif name in rows and not len(rows[name].target):
            transfer.fresh[name] = "no row has the same name"
        else:
            transfer.taken[name] = rule
            if rule != SAME:
                transfer.grown.add(name)
            if name in rows:
                transfer.taken[name] = f"{len(rows[name].target)} of {shape[0]} rows: {rule}"
                transfer.rows[name] = rows[name]
    for name in there:
        if name not in transfer.taken:
            transfer.left[name] = transfer.fresh.get(name, "the model has none")
    transfer.left.update(dict.fromkeys(source.unused, "the model has none"))
    if not transfer.taken:
        raise UserError(
            f"{source.where}: nothing to start from: no tensor of it has the name and the shape "
            "of one here, or grows to it: is --quality that of the checkpoint?"
        )
    return transfer


def _flat(shapes: Mapping[str, Shapes]) -> Shapes:
    return {f"{network}.{name}": s for network, some in shapes.items() for name, s in some.items()}


def _rows(
    source: Source,
    target: Mapping[str, Shapes],
    dataset: Mapping[str, Any],
    wanted: Collection[str],
) -> dict[str, Rows]:
    """Rows that mean the same, where both sides name their rows and not all alike."""
    found = {}
    for key, table in (("speaker_id_map", _SPEAKERS), ("phoneme_id_map", _SYMBOLS)):
        old, new = (_row_names(values.get(key)) for values in (source.metadata.dataset, dataset))
        there, here = source.shapes[GENERATOR].get(table), target[GENERATOR].get(table)
        full = f"{GENERATOR}.{table}"
        if old and new and there and here and full in wanted and (old != new or there != here):
            old = {name: row for name, row in old.items() if row < there[0]}
            new = {name: row for name, row in new.items() if row < here[0]}
            # Symbols may share a row: what has its own name there counts.
            pairs = {row: old[name] for name, row in new.items() if name in old}
            unnamed = {name: row for name, row in new.items() if row not in pairs}
            alike = _alike(unnamed, old) if table == _SYMBOLS else {}
            pairs |= {new[name]: old[other] for name, other in alike.items()}
            columns = np.asarray(list(pairs.items()), np.int32).reshape(-1, 2).T
            said = {_bare(name): _bare(other) for name, other in alike.items()}
            found[full] = Rows(columns[0], columns[1], said)
    return found


def _alike(new: Collection[str], old: Collection[str]) -> dict[str, str]:
    """Names of rows that begin as others, by the sound of their symbols."""
    symbols = list(dict.fromkeys(map(_bare, new)))
    if not symbols:
        return {}
    try:
        nearest = nearest_by_sound(symbols, list(dict.fromkeys(map(_bare, old))))
    except NoPhonetics:
        _LOGGER.info(
            "%d symbols are new and begin fresh (%s): with pip install '.[phonetics]' they would "
            "begin as those that they sound most like",
            *(len(symbols), " ".join(symbols)),
        )
        return {}
    others = {}
    for name in new:
        place, _, symbol = name.partition(" ")
        other = f"{place} {nearest.get(symbol)}"
        if symbol in nearest and other in old:
            others[name] = other
    return others


def _bare(name: str) -> str:
    """The symbol, or speaker, of a name of `_row_names`."""
    return name.partition(" ")[2]


def _row_names(ids: Any) -> dict[str, int]:
    """Row by name; of a symbol that stands for several ids each one counts by itself."""
    named: dict[str, int] = {}
    for name, rows in ids.items() if isinstance(ids, Mapping) else ():
        for place, row in enumerate(rows if isinstance(rows, list) else [rows]):
            if isinstance(row, int):
                named[f"{place} {name}"] = row
    return named
