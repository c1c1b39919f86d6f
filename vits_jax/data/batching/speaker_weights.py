"""``--speaker-weights``: what the user says, as rows of each speaker in an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from vits_jax.data.batching.balance import Shares, apportioned
from vits_jax.data.batching.batches import Plan
from vits_jax.data.manifest import Dataset
from vits_jax.data.voice_config import VoiceConfig
from vits_jax.errors import UserError

_FLAG = "--speaker-weights"


def speaker_shares(asked: str, dataset: Dataset, rows: np.ndarray) -> Shares:
    """Rows of each speaker in an epoch that has as many as there are to train on.

    Args:
        asked: ``uniform``, ``sqrt`` (of the number of a speaker's utterances), or a YAML or JSON
            file with a weight for each speaker by name.
        dataset: says whose each utterance is.
        rows: int ``[…]``, rows to train on.

    Raises:
        UserError: there is one speaker only, the file cannot be used, or a speaker's weight is
            above 0 and comes to no row.
    """
    config = dataset.config
    if config.num_speakers == 1:
        raise UserError(
            f"{_FLAG} {asked}: {config.path} has one speaker: expected several to weigh; "
            "leave it out"
        )
    counts = np.bincount(dataset.speaker_ids[rows], minlength=config.num_speakers)
    if asked == "uniform":
        weights = [float(count > 0) for count in counts]
    elif asked == "sqrt":
        weights = [math.sqrt(count) for count in counts]
    else:
        weights = _of_file(Path(asked), config, counts)
    each = apportioned(weights, len(rows))
    for name, weight, share in zip(config.speaker_names, weights, each, strict=True):
        if weight and not share:
            raise UserError(
                f"{_FLAG} {asked}: the weight of {name!r}, {weight:g}, comes to none of an epoch's "
                f"{len(rows)} rows: expected a larger one, or 0 to leave the speaker out"
            )
    return Shares(dataset.speaker_ids, each)


class InAnEpoch(NamedTuple):
    """A speaker by name: utterances to train on, and rows of every epoch."""

    speaker: str
    utterances: int
    rows: int


def speakers_in_an_epoch(plan: Plan, dataset: Dataset, rows: np.ndarray) -> list[InAnEpoch]:
    """Of every speaker, by id.

    Args:
        plan: of a run.
        dataset: says whose each utterance is.
        rows: int ``[…]``, rows to train on.
    """
    names = dataset.config.speaker_names
    utterances = np.bincount(dataset.speaker_ids[rows], minlength=len(names)).tolist()
    each = dict(enumerate(utterances)) if plan.balance is None else plan.balance.each
    return [InAnEpoch(name, utterances[i], each.get(i, 0)) for i, name in enumerate(names)]


def shown(speakers: Sequence[InAnEpoch], limit: int = 20) -> str:
    """One line: ``anna 73 rows of 200 utterances, …``."""
    named = [f"{name} {rows} rows of {count} utterances" for name, count, rows in speakers[:limit]]
    more = len(speakers) - limit
    return ", ".join(named) + (f" and {more} speakers more" if more > 0 else "")


def _of_file(path: Path, config: VoiceConfig, counts: np.ndarray) -> list[float]:
    """The weight of each speaker.

    Args:
        counts: ``[speakers]``, utterances that are trained on.
    """
    names = config.speaker_names
    ids = {name: speaker for speaker, name in enumerate(names)} | config.speaker_id_map
    weights: dict[int, float] = {}
    for name, weight in _read(path).items():
        if name not in ids:
            raise UserError(f"{_FLAG} {path}: {config.path} has no speaker {name!r}")
        if weight and not counts[ids[name]]:
            raise UserError(
                f"{_FLAG} {path}: {name!r} has no utterance to train on: expected a weight of 0"
            )
        if ids[name] in weights:
            raise UserError(f"{_FLAG} {path}: {name!r} is speaker {ids[name]}, who is named twice")
        weights[ids[name]] = weight
    missing = [names[i] for i in np.flatnonzero(counts).tolist() if i not in weights]
    if missing:
        shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
        raise UserError(
            f"{_FLAG} {path}: no weight for {len(missing)} of {np.count_nonzero(counts)} "
            f"speakers: {shown}: expected one for each (0: not trained on)"
        )
    if not any(weights.values()):
        raise UserError(f"{_FLAG} {path}: every weight is 0: expected one above it")
    return [weights.get(speaker, 0.0) for speaker in range(config.num_speakers)]


def _read(path: Path) -> Mapping[str, float]:
    """``{name: weight}`` of a YAML file; JSON is YAML.

    Names are taken as they are spelt: ``007`` is no number.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(
            f"{_FLAG} {path}: expected uniform, sqrt or a file of weights; cannot read one "
            f"there: {error.strerror}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{_FLAG} {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{_FLAG} {path}: expected lines of `speaker: weight`")
    weights: dict[str, float] = {}
    for key, value in node.value:
        where = f"{_FLAG} {path}:{key.start_mark.line + 1}"
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        weight = _number(value.value) if isinstance(value, yaml.ScalarNode) else None
        if not name or weight is None:
            got = value.value if isinstance(value, yaml.ScalarNode) else "something else"
            raise UserError(
                f"{where}: got {name or 'no name'}: {got}, expected `speaker: weight`, "
                "a finite number, at least 0"
            )
        if name in weights:
            raise UserError(f"{where}: {name!r} is named twice")
        weights[name] = weight
    return weights


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
