"""What of a checkpoint begins a new run: filters over the flat dict of parameters.

Two kinds. A *speaker conversion* turns a single-speaker checkpoint into a multi-speaker
model (`from_single_speaker`): everything but the layers that hear the speaker. A *warm
start* takes what fits (`warm_start`), and of the tables of speakers and symbols the rows
that mean the same, by name.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from vits_jax.checkpoints.source import Shapes, Source
from vits_jax.errors import UserError
from vits_jax.model.networks import GENERATOR
from vits_jax.model.parameters import Parameters

_LOGGER = logging.getLogger(__name__)

VOCODER = ("dec.", "enc_q.", "flow.")  # what piper1's --vocoder_warmstart_ckpt takes
_SPEAKERS, _SYMBOLS = "emb_g.weight", "enc_p.emb.weight"


@dataclass(frozen=True)
class Rows:
    """Row ``source[i]`` of a table becomes row ``target[i]``."""

    target: np.ndarray
    source: np.ndarray


@dataclass(frozen=True)
class Transfer:
    """What is taken, what stays fresh and what is left, by ``network.name``, with reasons.

    Taken and fresh together are all tensors of the new model; every tensor of the
    checkpoint is taken or left. Of a table in `rows` only those rows are taken.
    """

    taken: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)

    def apply(self, fresh: dict[str, Parameters], source: Source) -> dict[str, Parameters]:
        """The new model's parameters; `fresh` are its initial ones."""
        sharding = jnp.asarray(fresh[GENERATOR][_SYMBOLS]).sharding  # `fresh` may be the host's
        names: dict[str, list[str]] = {}
        for full in self.taken:
            network, _, name = full.partition(".")
            names.setdefault(network, []).append(name)
        result = {network: dict(parameters) for network, parameters in fresh.items()}
        for network, parameters in source.parameters(names, sharding).items():
            for name, array in parameters.items():
                rows = self.rows.get(f"{network}.{name}")
                if rows is not None:
                    array = (
                        jnp.asarray(fresh[network][name]).at[rows.target].set(array[rows.source])
                    )
                result[network][name] = array
        return result

    def log(self, what: str, source: Source) -> None:
        """Tensor by tensor at debug level; one summary that names what is not taken."""
        for kind in ("taken", "fresh", "left"):
            for name, reason in getattr(self, kind).items():
                _LOGGER.debug("%s: %s: %s", kind, name, reason)
        for name, rows in self.rows.items():
            _LOGGER.info("%s: %d rows of %s", what, len(rows.target), name)
        _LOGGER.info(
            "%s %s: %d tensors taken, %d fresh%s, %d left in it%s",
            *(what, source.where, len(self.taken), len(self.fresh), _names(self.fresh)),
            *(len(self.left), _names(self.left)),
        )


def _names(tensors: Collection[str]) -> str:
    return f" ({', '.join(tensors)})" if tensors else ""


def hears_speaker(name: str) -> bool:
    """Whether a generator's tensor is there for the speaker: absent from a single-speaker
    model, fresh after the conversion (the filter of Piper's trainer, and the embedding)."""
    return name.startswith(("dec.cond", "dp.cond", "emb_g")) or "enc.cond_layer" in name


def from_single_speaker(source: Source, target: Mapping[str, Shapes]) -> Transfer:
    """Everything of a single-speaker checkpoint, into a multi-speaker model.

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
    transfer, wrong = Transfer(), []
    there, here = _flat(source.shapes), _flat(target)
    for name, shape in here.items():
        network, _, bare = name.partition(".")
        if network == GENERATOR and hears_speaker(bare):
            transfer.fresh[name] = "it hears the speaker"
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
    target: Mapping[str, Shapes],
    dataset: Mapping[str, Any],
    only: tuple[str, ...] = (),
) -> Transfer:
    """Every tensor that is the same in name and shape.

    Of the tables of speakers and symbols the rows that both ``config.json``s name, wherever
    they stand; the table as a whole where one of the two does not say what its rows mean.

    Args:
        source: the checkpoint.
        target: shapes of the new model.
        dataset: ``config.json`` of the new model's dataset.
        only: take generator tensors with these beginnings alone (`VOCODER`).

    Raises:
        UserError: nothing fits.
    """
    transfer = Transfer()
    there, here = _flat(source.shapes), _flat(target)
    rows = {} if only else _rows(source, target, dataset)
    for name, shape in here.items():
        if only and not name.startswith(tuple(f"model_g.{prefix}" for prefix in only)):
            transfer.fresh[name] = "not asked for"
        elif name not in there:
            transfer.fresh[name] = "the checkpoint has none"
        elif name in rows and there[name][1:] == shape[1:]:
            if len(rows[name].target):
                transfer.taken[name] = f"{len(rows[name].target)} of {shape[0]} rows, by name"
                transfer.rows[name] = rows[name]
            else:
                transfer.fresh[name] = "no row has the same name"
        elif there[name] != shape:
            transfer.fresh[name] = f"got {there[name]}, expected {shape}"
        else:
            transfer.taken[name] = "the same in both"
    for name in there:
        if name not in transfer.taken:
            transfer.left[name] = transfer.fresh.get(name, "the model has none")
    transfer.left.update(dict.fromkeys(source.unused, "the model has none"))
    if not transfer.taken:
        raise UserError(
            f"{source.where}: nothing to start from: no tensor of it has the name and the shape "
            "of one here: is --quality that of the checkpoint?"
        )
    return transfer


def _flat(shapes: Mapping[str, Shapes]) -> Shapes:
    return {f"{network}.{name}": s for network, some in shapes.items() for name, s in some.items()}


def _rows(
    source: Source, target: Mapping[str, Shapes], dataset: Mapping[str, Any]
) -> dict[str, Rows]:
    """Rows that mean the same, where both sides name their rows and not all alike."""
    found = {}
    for key, table in (("speaker_id_map", _SPEAKERS), ("phoneme_id_map", _SYMBOLS)):
        old, new = (_row_names(values.get(key)) for values in (source.metadata.dataset, dataset))
        there, here = source.shapes[GENERATOR].get(table), target[GENERATOR].get(table)
        if old and new and there and here and (old != new or there != here):
            both = [(new[name], old[name]) for name in new if name in old]
            both = [(t, s) for t, s in both if t < here[0] and s < there[0]]
            both = list({t: (t, s) for t, s in both}.values())  # symbols may share a row
            columns = np.asarray(both, np.int32).reshape(-1, 2).T
            found[f"model_g.{table}"] = Rows(columns[0], columns[1])
    return found


def _row_names(ids: Any) -> dict[str, int]:
    """Row by name; of a symbol that stands for several ids each one counts by itself."""
    named: dict[str, int] = {}
    for name, rows in ids.items() if isinstance(ids, Mapping) else ():
        for place, row in enumerate(rows if isinstance(rows, list) else [rows]):
            if isinstance(row, int):
                named[f"{place} {name}"] = row
    return named
