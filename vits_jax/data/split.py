"""Which utterances are trained on, validated on, and spoken as test examples."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Rows of a dataset, each in exactly one of three parts; int64, ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def utterance_key(name: str, speaker: Any, text: str | list[int]) -> int:
    """A hash of what an utterance is, not of where it lies or what its ids happen to be.

    Args:
        name: its recording's file, without folders.
        speaker: whose it is.
        text: what is spoken; its ids where nobody says.
    """
    digest = hashlib.blake2b(json.dumps([name, speaker, text]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def split(keys: np.ndarray, validation_split: float, num_test_examples: int) -> Split:
    """Hold utterances out by the hash of what they are.

    An utterance's key, read as a number from 0 to 1, decides: below `validation_split` it
    is for validation, whatever else the corpus holds, so a corpus can grow and nothing
    that was held out is ever trained on, nor the other way round. The price is that
    validation has about, not exactly, Piper's ``int(utterances · validation_split)``.
    The test examples are the `num_test_examples` highest keys of the others; growing can
    return one of them to training.

    Two things give way in a tiny corpus: where Piper would validate on something and no
    key is low enough, the lowest key is taken; and at least half of the utterances that
    are not for validation, and at least one of all, are trained on.

    Args:
        keys: uint64 ``[utterances]``, hashes.
        validation_split: share of the utterances to validate on, 0 to below 1.
        num_test_examples: utterances to speak after each validation.

    Raises:
        ValueError: another share, or fewer than 0 utterances.
    """
    if not 0 <= validation_split < 1 or num_test_examples < 0:
        raise ValueError(f"cannot hold out {validation_split} and {num_test_examples}")
    order = np.argsort(keys, kind="stable")
    count = int(np.searchsorted(keys[order] / 2.0**64, validation_split, side="left"))
    count = max(count, min(1, int(len(keys) * validation_split)))
    count = min(count, max(len(keys) - 1, 0))
    tests = min(num_test_examples, (len(keys) - count) // 2)
    if tests < num_test_examples:
        _LOGGER.warning(
            "warning: %d test examples instead of %d: there are only %d utterances",
            tests,
            num_test_examples,
            len(keys),
        )
    middle = len(keys) - tests
    return Split(
        train=np.sort(order[count:middle]),
        validation=np.sort(order[:count]),
        test=np.sort(order[middle:]),
    )
