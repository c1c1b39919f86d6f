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
from vits_jax.programs import Programs
from vits_jax.state import Position, TrainState
from vits_jax.training.evaluation import Evaluation, Sound
from vits_jax.training.mesh import abstract_copy, local, of_this_process
from vits_jax.training.skipping import shortened, utterances
from vits_jax.training.stopping import Stop
from vits_jax.voice import speech

_LOGGER = logging.getLogger(__name__)


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
        self.every = config.run.check_val_every_n_epoch
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
        return Evaluation(sounds=self._speak(state, position.step, stop))

    def _speak(self, state: TrainState, step: int, stop: Stop) -> Iterator[Sound]:
        audio, cut = self._config.audio, []
        params = local(state.judged[GENERATOR])
        compiled = self._stages._replace(
            encode=functools.partial(self._encode, (1, self._shape[0])),
            decode=lambda *own, n_frames: self._decode((1, n_frames), *own),
        )
        for number, row in enumerate(self._rows):
            if stop.asked or not self._ready(stop):
                return
            sentence = speech.Sentence(
                self._dataset.phoneme_ids(row), int(self._dataset.speaker_ids[row])
            )
            with device_memory.explained(lambda: ("the test examples", None)):
                (spoken,) = speech.speak(
                    compiled,
                    params,
                    self._config,
                    [sentence],
                    speech.Settings(),
                    shape=self._shape,
                )
            if spoken.durations.sum() > self._shape[1]:
                cut.append(row)
            yield Sound(self._dataset.text(row) or str(number), spoken.audio, audio.sample_rate)
        if cut:
            _LOGGER.info(
                "test examples after step %d: %d of %d cut off at %.1f s, the longest that is "
                "trained on: %s",
                *(step, len(cut), len(self._rows)),
                self._shape[1] * audio.hop_length / audio.sample_rate,
                shortened(utterances(self._dataset, cut)),
            )

    def _ready(self, stop: Stop) -> bool:
        """Whether both stages are compiled; waits for those that are on their way."""
        return all(
            programs.ready((1, size), lambda: stop.asked)
            for programs, size in zip((self._encode, self._decode), self._shape, strict=True)
        )
