"""Voices say what there is to say, and are scored."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vits_jax.data.voice_config import language_of
from vits_jax.errors import UserError
from vits_jax.evaluation.material import Material, Utterance
from vits_jax.metrics import Clip, Interval, Metric, Table, differences, score
from vits_jax.metrics.scoring import of_interval
from vits_jax.voice.any_voice import AnyVoice, ids_of

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """A voice, what it said, and its scores.

    Attributes:
        name: unlike that of the other voice.
        sample_rate: hertz.
        clips: one for each utterance, in their order.
        seconds: that speaking took, what had to be compiled or loaded for it included.
        table: the scores.
    """

    name: str
    sample_rate: int
    clips: list[Clip]
    seconds: float
    table: Table


@dataclass(frozen=True)
class Comparison:
    """All that is said of one voice or two.

    Attributes:
        material: what was said.
        language: of it; None where nobody knows.
        metrics: that were asked for.
        voices: one or two.
        differences: of the first and the second voice, by metric; empty of one.
    """

    material: Material
    language: str | None
    metrics: list[Metric]
    voices: list[Judged]
    differences: dict[str, Interval]

    def winner(self, name: str) -> int | None:
        """Which voice is better by a metric; None where the interval of the difference holds 0."""
        found = self.differences[name]
        result = self.voices[0].table.results[name]
        nearest = result.metric.better == "nearest"
        if not (found.low > 0 or found.high < 0) or (nearest and result.recordings is None):
            return None
        first = (found.mean > 0) == (result.metric.better == "higher")
        return 0 if first else 1

    def _winner(self, name: str) -> str | None:
        found = self.winner(name)
        return None if found is None else self.voices[found].name

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON holds."""
        material = self.material
        return {
            "source": material.source,
            "split": material.split or None,
            "language": self.language,
            "sentences": [
                {"name": each.name, "text": each.text, "speaker": each.speaker}
                for each in material.utterances
            ],
            "voices": [
                {
                    "name": voice.name,
                    "sample_rate": voice.sample_rate,
                    "seconds": sum(clip.seconds for clip in voice.clips),
                    "speaking_seconds": voice.seconds,
                    **voice.table.to_dict(),
                }
                for voice in self.voices
            ],
            "differences": {
                name: {**of_interval(found), "better_voice": self._winner(name)}
                for name, found in self.differences.items()
            },
        }


def compare(
    material: Material,
    voices: Sequence[AnyVoice],
    metrics: Sequence[Metric],
    *,
    speaker: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Have voices say it all, and take metrics of what they said.

    Args:
        material: what to say.
        voices: one or two.
        metrics: to take.
        speaker: who speaks, of voices with several (default: whose recording it is).
        seed: of the intervals.

    Raises:
        UserError: a voice cannot say it.
    """
    language = language_of(material.dataset) or language_of(voices[0].dataset)
    names = _names([voice.name for voice in voices])
    judged = []
    for name, voice in zip(names, voices):
        start = time.perf_counter()
        clips = [_clip(voice, each, material.dataset, speaker) for each in material.utterances]
        taken = time.perf_counter() - start
        seconds = sum(clip.seconds for clip in clips)
        _LOGGER.info(
            "%s: %d sentences, %.1f s of speech in %.1f s", name, len(clips), seconds, taken
        )
        table = score(clips, material.recordings, metrics, language=language, seed=seed)
        judged.append(Judged(name, voice.sample_rate, clips, taken, table))
    found: dict[str, Interval] = {}
    if len(judged) == 2:
        found = differences(judged[0].table, judged[1].table, seed=seed)
    return Comparison(material, language, list(metrics), judged, found)


def _clip(
    voice: AnyVoice, utterance: Utterance, dataset: Mapping[str, Any], speaker: str | None
) -> Clip:
    try:
        sentences = _sentences(voice, utterance, dataset)
        audio = voice.speak(sentences, _speaker(voice, utterance, speaker))
        clip = Clip(audio, voice.sample_rate, utterance.text or None, name=utterance.name)
    except UserError as error:
        raise UserError(f"{utterance.name}: {error}") from error
    except ValueError as error:
        raise UserError(f"{utterance.name}: {voice.name} said nothing: {error}") from error
    return replace(clip, speaker=utterance.speaker, reference=utterance.recording)


def _sentences(
    voice: AnyVoice, utterance: Utterance, dataset: Mapping[str, Any]
) -> list[list[int]]:
    """The dataset's ids where they mean the same to the voice; else those of the text."""
    same = all(voice.dataset.get(key) == dataset.get(key) for key in ("phoneme_id_map", "espeak"))
    types = (each.get("phoneme_type") or "espeak" for each in (voice.dataset, dataset))
    if utterance.phoneme_ids is not None and same and len(set(types)) == 1:
        return [utterance.phoneme_ids.tolist()]
    if not utterance.text:
        raise UserError(
            "its text is not known, and this voice has other phoneme ids than the dataset"
        )
    ids, missing = ids_of(voice, utterance.text)
    if missing:
        symbols = ", ".join(f"{symbol!r} ({count})" for symbol, count in missing.items())
        _LOGGER.warning("%s: not in this voice's phoneme map, left out: %s", voice.name, symbols)
    return ids


def _speaker(voice: AnyVoice, utterance: Utterance, speaker: str | None) -> str | None:
    """Who speaks; a voice with one speaker is asked for nobody."""
    known = voice.dataset.get("speaker_id_map") or {}
    if int(voice.dataset.get("num_speakers") or len(known) or 1) == 1:
        return None
    if speaker is not None:
        return speaker
    if utterance.speaker is None:
        raise UserError(f"{voice.name} has several speakers: --speaker says who of them speaks")
    return utterance.speaker


def _names(names: Sequence[str]) -> list[str]:
    """Each unlike the others: the same voice may be held against itself."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]
