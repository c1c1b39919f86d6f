"""Speakers who were there before, kept while others join: which, from when on, and said how."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from vits_jax.checkpoints.source import Source
from vits_jax.checkpoints.warm_start import Transfer
from vits_jax.config import HOLD, OFF, Config
from vits_jax.errors import UserError
from vits_jax.model.kept import SPEAKERS
from vits_jax.model.networks import GENERATOR

_LOGGER = logging.getLogger(__name__)

_TABLE = f"{GENERATOR}.{SPEAKERS}"


def from_warm_start(
    config: Config, transfer: Transfer, source: Source, dataset: Mapping[str, Any]
) -> Config:
    """With what is kept, where ``--keep-speakers`` asks for it.

    Args:
        config: of the run.
        transfer: what the run takes of `source`.
        source: the checkpoint.
        dataset: ``config.json`` of the run's dataset.

    Raises:
        UserError: there is no old speaker, or nothing is left to learn.
    """
    asked, names = config.optimizer.keep_speakers, speaker_names(config, dataset)
    rows = _old_rows(config, transfer)
    if asked == OFF:
        if 0 < len(rows) < len(names):
            _LOGGER.info(
                "%s were there before: --keep-speakers hold, or a number, keeps their voices "
                "(docs/speakers.md)",
                ", ".join(names[row] for row in rows),
            )
        return config
    if not rows:
        there = source.metadata.config.model.num_speakers
        why = (
            f"it has {there} speaker{'s' * (there > 1)}, the dataset {len(names)}"
            if 1 in (there, len(names))
            else "no speaker's name is in both its speaker_id_map and the dataset's"
        )
        raise UserError(
            f"--keep-speakers {asked}: {source.where} gives this run no speaker to keep: {why}: "
            "expected --warmstart_ckpt with speakers whom the dataset's config.json names too"
        )
    if asked == HOLD and len(rows) == len(names):
        raise UserError(
            f"--keep-speakers {HOLD}: all {len(names)} speakers of the dataset are in "
            f"{source.where}: nobody new is there to learn: a number lets the rest of the model"
        )
    return config.replaced({"kept_speakers": rows, "kept_fresh": tuple(transfer.fresh)})


def _old_rows(config: Config, transfer: Transfer) -> tuple[int, ...]:
    """Of the run's table of speakers, those that are taken."""
    if _TABLE not in transfer.taken:
        return ()
    if _TABLE in transfer.rows:
        return tuple(sorted(transfer.rows[_TABLE].target.tolist()))
    return tuple(range(config.model.num_speakers))


def not_begun(config: Config) -> Config:
    """Of a run that begins without a warm start.

    Raises:
        UserError: it is to keep somebody.
    """
    if config.optimizer.keep_speakers != OFF:
        raise UserError(
            f"--keep-speakers {config.optimizer.keep_speakers}: this run takes no speaker of a "
            "checkpoint: expected --warmstart_ckpt, of a voice with several speakers"
        )
    return config


def going_on(config: Config, source: Source) -> Config:
    """With what the checkpoint says is kept; that may end, or be another strength, and no more.

    Raises:
        UserError: it cannot begin here.
    """
    theirs, asked = source.metadata.config.optimizer, config.optimizer.keep_speakers
    was, numbers = theirs.keep_speakers, (OFF, HOLD)
    if asked != was and asked != OFF and (asked in numbers or was in numbers):
        raise UserError(
            f"--keep-speakers was {was} and is now {asked}: {source.where} does not say where "
            "its weights began: expected the same, off, or of a number another; or a new run, with "
            "--warmstart_ckpt"
        )
    if asked == OFF:
        if was != OFF:
            _LOGGER.info("--keep-speakers off: it was %s, all learns from here on", was)
        return config.replaced({"kept_speakers": (), "kept_fresh": ()})
    return config.replaced({"kept_speakers": theirs.kept_speakers, "kept_fresh": theirs.kept_fresh})


def announcement(config: Config, dataset: Mapping[str, Any]) -> str | None:
    """What is kept, in a line; None where nothing is.

    Args:
        config: of the run.
        dataset: ``config.json`` of its dataset.
    """
    asked = config.optimizer.keep_speakers
    if asked == OFF:
        return None
    names = speaker_names(config, dataset)
    old = ", ".join(names[row] for row in config.optimizer.kept_speakers)
    how = (
        "all that was taken stays as it is, the rows of the others learn"
        if asked == HOLD
        else "their rows stay as they are, the rest of what was taken is pulled back"
    )
    return f"--keep-speakers {asked}: {old}: {how}"


def speaker_names(config: Config, dataset: Mapping[str, Any]) -> list[str]:
    """By row of the table; the row itself where the dataset does not say."""
    known = dataset.get("speaker_id_map") or {}
    names = {number: name for name, number in known.items()}
    return [names.get(row, str(row)) for row in range(config.model.num_speakers)]
