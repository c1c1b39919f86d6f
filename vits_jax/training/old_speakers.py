"""At a run's end: how far the old speakers are from how they spoke at its beginning.

Each says the texts of the test examples without any noise, with the weights as they are and as
they began (`TrainState.anchors`): no recordings of theirs are needed, no recogniser, and nothing
but the weights differs. What a distance means tells the beginning: the same voice saying the same
twice, with other noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from vits_jax.config import HOLD, OFF, Config
from vits_jax.data.manifest import Dataset
from vits_jax.metrics import Clip, selected
from vits_jax.metrics.scoring import score
from vits_jax.model.networks import GENERATOR
from vits_jax.model.parameters import Parameters
from vits_jax.state import TrainState
from vits_jax.training.evaluation import Evaluator
from vits_jax.training.examples import SpokenExamples
from vits_jax.training.keeping import speaker_names
from vits_jax.training.mesh import local
from vits_jax.training.stopping import Stop
from vits_jax.voice import speech

_LOGGER = logging.getLogger(__name__)

MOST_SPEAKERS = 3
METRICS = "mcd,similarity"
_STILL = speech.Settings(noise_scale=0.0, noise_w=0.0)
_TWICE = tuple(speech.Settings(seed=seed) for seed in (1, 2))


class OldSpeakers:
    """Of one run.

    Args:
        config: of it.
        dataset: its data.
        rows: of the dataset, the test examples.
        evaluators: of the run; the test examples', if they are among them, speak.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        rows: np.ndarray,
        evaluators: Sequence[Evaluator],
    ):
        self._config, self._dataset, self._rows = config, dataset, rows
        speaks = (each for each in evaluators if isinstance(each, SpokenExamples))
        self._examples = next(speaks, None)

    def tell(self, state: TrainState, stop: Stop) -> dict[str, float]:
        """Say how they have changed, a line each; the numbers, ``kept/SPEAKER/METRIC``.

        Nothing where the run keeps nobody, or nobody speaks in this process.
        """
        if self._examples is None:
            return {}
        names = speaker_names(self._config, self._dataset.config.raw)
        kept = self._config.optimizer.kept_speakers
        asked = self._config.optimizer.keep_speakers
        if asked == OFF:
            return {}
        if asked == HOLD:
            said = ", ".join(names[row] for row in kept)
            _LOGGER.info("%s: as they were, bit for bit (--keep-speakers %s)", said, HOLD)
            return {}
        found: dict[str, float] = {}
        for row in kept[:MOST_SPEAKERS] if len(self._rows) else ():
            if stop.asked or not self._examples.ready(stop):
                break
            try:
                for name, value in self._of(self._examples, row, names[row], state):
                    found[f"kept/{names[row]}/{name}"] = value
            except ValueError as error:  # what was trained is saved; what it says need be no sound
                _LOGGER.warning("%s cannot be heard now: %s", names[row], error)
        return found

    def _of(
        self, examples: SpokenExamples, speaker: int, name: str, state: TrainState
    ) -> Iterator[tuple[str, float]]:
        now = local(state.judged[GENERATOR])
        before = now | local(state.anchors[GENERATOR])

        def say(params: Parameters, settings: speech.Settings) -> list[Clip]:
            sentences = [speech.Sentence(self._dataset.phoneme_ids(r), speaker) for r in self._rows]
            spoken = [examples.say(params, sentence, settings) for sentence in sentences]
            return [Clip(each.audio, self._config.audio.sample_rate) for each in spoken]

        first, last = say(before, _STILL), say(now, _STILL)
        table = score(_against(last, first), first, selected(METRICS))
        told = []
        for metric, result in table.results.items():
            mean, low, high, _ = result.interval
            unit = f" {result.metric.unit}" if result.metric.unit else ""
            told.append(f"{metric} {mean:.3g}{unit} ({low:.3g} to {high:.3g})")
            yield metric, mean
        if "mcd" in table.results:
            once, again = (say(before, each) for each in _TWICE)
            twice = score(_against(again, once), once, selected("mcd")).results["mcd"]
            told.append(f"at the beginning mcd {twice.interval.mean:.3g} dB between two sayings")
            yield "mcd_of_noise", twice.interval.mean
        told += [f"no {metric}: {why}" for metric, why in table.not_taken.items()]
        _LOGGER.info(
            "%s now, from how they spoke at the beginning, %d sentences: %s",
            *(name, len(last), "; ".join(told)),
        )


def _against(clips: Sequence[Clip], references: Sequence[Clip]) -> list[Clip]:
    return [
        replace(clip, reference=reference)
        for clip, reference in zip(clips, references, strict=True)
    ]
