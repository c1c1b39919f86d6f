"""An evaluator: the test examples, spoken."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import cast

import numpy as np
from jax.sharding import Mesh
from jax.stages import Wrapped

from vits_jax import device_memory
from vits_jax.compiler import Compiler
from vits_jax.composed import Composed
from vits_jax.config import Config
from vits_jax.data.batching.batches import Plan
from vits_jax.data.batching.buckets import round_up
from vits_jax.data.manifest import Dataset
from vits_jax.model.networks import GENERATOR
from vits_jax.model.parameters import Parameters
from vits_jax.programs import Programs
from vits_jax.state import Position, TrainState
from vits_jax.training import pictures, signals
from vits_jax.training.evaluation import Evaluation, Picture, Sound, period
from vits_jax.training.mesh import abstract_copy, local, of_this_process
from vits_jax.training.skipping import shortened, utterances
from vits_jax.training.stopping import Stop
from vits_jax.voice import speech

_LOGGER = logging.getLogger(__name__)

_COMPARED = 30  # recordings of a speaker
_PLAIN = speech.Settings()


class SpokenExamples:
    """Texts of the dataset, all spoken in one shape; what is longer than it is cut off.

    Args:
        plan: of training; its largest bucket is the shape.
        rows: of the dataset, to speak.

    Attributes:
        every: epochs between two evaluations.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        dataset: Dataset,
        plan: Plan,
        rows: np.ndarray,
        compiler: Compiler,
    ):
        self.every = period(config.run)
        self._config, self._dataset, self._rows = config, dataset, rows
        largest = plan.used_buckets[-1]
        # Room for each example's text; speech beyond the frames is cut off.
        longest = round_up(dataset.id_lengths[rows]).max(initial=largest.phonemes)
        self._shape = (int(longest), largest.frames)
        self._mesh = of_this_process(mesh)
        self._stages = speech.make_stages(config, mesh.devices.flat[0].platform)
        encode, decode = (cast(Wrapped, stage) for stage in self._stages[:2])
        at_length = Composed.alone(decode, n_frames=largest.frames)
        self._encode = Programs(encode, "encoder of the test examples", compiler)
        self._decode = Programs(at_length, "decoder of the test examples", compiler)

    def ahead(self, state: TrainState) -> None:
        if len(self._rows):
            params = abstract_copy(state.judged[GENERATOR], self._mesh)
            to_encode, to_decode = speech.abstract_arguments(self._config, params, self._shape)
            self._encode.ahead((1, self._shape[0]), *to_encode)
            self._decode.ahead((1, self._shape[1]), *to_decode)

    def __call__(self, state: TrainState, position: Position, stop: Stop) -> Evaluation:
        """Sounds under their texts."""
        return Evaluation(shown=self._speak(state, position.step, stop))

    def _speak(
        self, state: TrainState, step: int, stop: Stop
    ) -> Iterator[Sound | Picture | dict[str, float]]:
        audio, cut, told = self._config.audio, [], []
        say = functools.partial(self.say, local(state.judged[GENERATOR]))
        for number, row in enumerate(self._rows):
            if stop.asked or not self.ready(stop):
                return
            sentence = speech.Sentence(
                self._dataset.phoneme_ids(row), int(self._dataset.speaker_ids[row])
            )
            spoken = say(sentence)
            if spoken.durations.sum() > self._shape[1]:
                cut.append(row)
            name = self._dataset.text(row) or str(number)
            yield Sound(name, spoken.audio, audio.sample_rate, f"{number}")
            mel = pictures.mel(self._mel(spoken.audio))
            aligned = pictures.alignment(spoken.durations[: self._shape[0]], mel.shape[1])
            sheet = pictures.below([mel, aligned])
            yield Picture(f"spoken/{name}", sheet, f"{number}")
            recording = self._dataset.audio(row) / 32768
            told.append(signals.compared(spoken.audio, recording, audio.sample_rate))
            if number == 0 and self._config.model.num_speakers > 1:
                other = say(sentence._replace(speaker_id=self._other(row)))
                yield {
                    "examples/apart": signals.apart(
                        [self._mel(spoken.audio)], [self._mel(other.audio)]
                    ),
                    **self._recorded,
                }
        yield {f"examples/{name}": value for name, value in signals.means(told).items()}
        if cut:
            _LOGGER.info(
                "test examples after step %d: %d of %d cut off at %.1f s, the longest that is "
                "trained on: %s",
                *(step, len(cut), len(self._rows)),
                self._shape[1] * audio.hop_length / audio.sample_rate,
                shortened(utterances(self._dataset, cut)),
            )

    def _mel(self, audio: np.ndarray) -> np.ndarray:
        return pictures.log_mel(audio, self._config.audio)

    def _other(self, row: int) -> int:
        """Another speaker than that of a row."""
        return int(self._dataset.speaker_ids[row] + 1) % self._config.model.num_speakers

    @functools.cached_property
    def _recorded(self) -> dict[str, float]:
        """How far the recordings of these two speakers are apart, and halves of one speaker's."""
        row, speakers = int(self._rows[0]), self._dataset.speaker_ids
        own, other = (
            [
                self._mel(self._dataset.audio(int(each)) / 32768)
                for each in np.flatnonzero(speakers == speaker)[:_COMPARED]
            ]
            for speaker in (speakers[row], self._other(row))
        )
        if len(own) < 2 or not other:
            return {}
        return {
            "examples/recorded_apart": signals.apart(own, other),
            "examples/recorded_alike": signals.apart(own[::2], own[1::2]),
        }

    def say(
        self, params: Parameters, sentence: speech.Sentence, settings: speech.Settings = _PLAIN
    ) -> speech.Spoken:
        """Speak with parameters of the generator, once `ready`."""
        compiled = self._stages._replace(
            encode=functools.partial(self._encode, (1, self._shape[0])),
            decode=lambda *own, n_frames: self._decode((1, n_frames), *own),
        )
        with device_memory.explained(lambda: ("the test examples", None)):
            (spoken,) = speech.speak(
                compiled, params, self._config, [sentence], settings, shape=self._shape
            )
        return spoken

    def ready(self, stop: Stop) -> bool:
        """Whether both stages are compiled; waits for those that are on their way."""
        return all(
            programs.ready((1, size), lambda: stop.asked)
            for programs, size in zip((self._encode, self._decode), self._shape, strict=True)
        )
