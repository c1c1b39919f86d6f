"""Flags of ``train`` for so much speech, each with its reason; what is not here is the preset's."""

from __future__ import annotations

from typing import NamedTuple

LARGEST_BATCH = 32  # Piper's documentation; what an accelerator of 24 GB holds of `medium`
_BATCHES = 4  # an epoch at least, where there are so many utterances
_HELD_OUT = 4  # utterances at least, or a verdict would hang on one sentence
_MOST_HELD_OUT = 0.3
_PIPERS_SPLIT, _PIPERS_TESTS = 0.1, 5
_TEN = 10  # utterances to a test example, in a small corpus


class Setting(NamedTuple):
    """A flag's name, its value as text, and why."""

    flag: str
    value: str
    why: str


def settings(utterances: int) -> list[Setting]:
    """For a corpus of so many utterances that are used.

    Learning rates, losses and the rest stay Piper's: nothing else was measured to be better.
    """
    split = min(_MOST_HELD_OUT, max(_PIPERS_SPLIT, _HELD_OUT / max(1, utterances)))
    tests = max(1, min(_PIPERS_TESTS, utterances // _TEN))
    trained = max(1, utterances - round(split * utterances) - tests)
    batch = LARGEST_BATCH
    while batch > 1 and trained < _BATCHES * batch:
        batch //= 2
    found = [
        Setting(
            "batch_size",
            str(batch),
            f"{trained} utterances to train on: "
            + (
                "Piper's usual batch"
                if batch == LARGEST_BATCH
                else f"the largest power of two that gives {_BATCHES} batches an epoch"
            ),
        )
    ]
    if split != _PIPERS_SPLIT:
        why = f"{_HELD_OUT} utterances held out, at most {_MOST_HELD_OUT:.0%}, to judge by"
        found.append(Setting("validation_split", f"{split:.3g}", why))
    if tests != _PIPERS_TESTS:
        why = f"spoken and heard at each validation: one in {_TEN} utterances, not trained on"
        found.append(Setting("num_test_examples", str(tests), why))
    return found
