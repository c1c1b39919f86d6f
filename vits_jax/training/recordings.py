"""An evaluator: the test examples' recordings through the autoencoder, and their texts on them."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vits_jax import device_memory
from vits_jax.compiler import Compiler
from vits_jax.config import Config
from vits_jax.data.batching.batches import Plan
from vits_jax.data.manifest import Dataset
from vits_jax.model.networks import GENERATOR
from vits_jax.programs import Programs
from vits_jax.state import Position, TrainState
from vits_jax.training import pictures
from vits_jax.training.evaluation import Evaluation, Picture, Sound, period
from vits_jax.training.mesh import abstract_copy, local, of_this_process
from vits_jax.training.reconstruction import abstract_arguments, make_reconstruct
from vits_jax.training.stopping import Stop


class Recordings:
    """What the decoder makes of recordings, which shows what it could say at best, and which
    frames the alignment gives to which phoneme.

    Args:
        plan: of training; its largest bucket is the shape that all are computed in.
        rows: of the dataset; those that are longer are left out.

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
        self._config, self._dataset = config, dataset
        largest, hop = plan.used_buckets[-1], config.audio.hop_length
        self._shape = (largest.phonemes, largest.frames)
        self._rows = [
            (number, row)
            for number, row in enumerate(rows)
            if dataset.id_lengths[row] <= largest.phonemes
            and dataset.samples[row] // hop <= largest.frames
        ]
        self._mesh, self._heard = of_this_process(mesh), False
        reconstruct = make_reconstruct(config, mesh.devices.flat[0].platform)
        self._program = Programs(reconstruct, "autoencoder of the test examples", compiler)

    def ahead(self, state: TrainState) -> None:
        if self._rows:
            params = abstract_copy(state.judged[GENERATOR], self._mesh)
            given = abstract_arguments(self._config, params, self._shape)
            self._program.ahead((1, *self._shape), *given)

    def __call__(self, state: TrainState, position: Position, stop: Stop) -> Evaluation:
        """Sounds and pictures under their texts; the recordings themselves the first time."""
        return Evaluation(shown=self._show(state, stop))

    def _show(self, state: TrainState, stop: Stop) -> Iterator[Sound | Picture]:
        audio, params = self._config.audio, local(state.judged[GENERATOR])
        shape, rate, hop = (1, *self._shape), audio.sample_rate, audio.hop_length
        for number, row in self._rows:
            if stop.asked or not self._program.ready(shape, lambda: stop.asked):
                return
            ids, recording = self._dataset.phoneme_ids(row), self._dataset.audio(row)
            samples = len(recording) // hop * hop
            with device_memory.explained(lambda: ("the test examples", None)):
                made = self._program(
                    shape,
                    params,
                    _padded(ids, self._shape[0])[None].astype(np.int32),
                    np.array([len(ids)], np.int32),
                    _padded(recording[:samples], self._shape[1] * hop)[None],
                    np.array([len(recording)], np.int32),
                    self._dataset.speaker_ids[row : row + 1].astype(np.int32),
                )
                sound, durations = (np.asarray(array)[0] for array in jax.device_get(made))
            name, sound = self._dataset.text(row) or str(number), sound[:samples]
            heard = recording[:samples].astype(np.float32) / 32768
            if not self._heard:
                yield Sound(f"recordings/{name}", heard, rate)
            yield Sound(f"reconstructed/{name}", sound, rate, f"{number}.reconstructed")
            mels = [pictures.log_mel(each, audio) for each in (heard, sound)]
            loudest = float(mels[0].max())
            sheet = [pictures.mel(mel, loudest) for mel in mels]
            aligned = pictures.alignment(durations[: len(ids)], len(mels[0]))
            yield Picture(
                f"recorded/{name}", pictures.below([*sheet, aligned]), f"{number}.recorded"
            )
        self._heard = True


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array, (0, length - len(array)))
