"""An exported voice held against JAX, in onnxruntime."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import numpy as np
import onnx
import onnxruntime

from vits_jax.model.synthesizer import EncodedText
from vits_jax.voice.graph import Names
from vits_jax.voice.speech import MOST_FRAMES, SMALLEST_FRAMES, bucket
from vits_jax.voice.voice import Voice

LENGTHS = (5, 24, 61)  # phoneme ids: one compilation of the text encoder holds them all
LENGTH_SCALES = (0.8, 1.0, 1.7)


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from JAX.

    `audio` is ``‖a - b‖ / ‖b‖`` under the same durations. `durations` is relative too: a
    phoneme's frames, before they are rounded up, may be wrong by this share.
    """

    audio: float
    durations: float


@dataclass(frozen=True)
class Agreement:
    """How far it is: of `runs`, the worst audio; of `phonemes`, how many durations differ."""

    audio: float
    other_durations: int
    out_of_reach: int  # of those, more than the tolerance explains
    phonemes: int
    runs: int
    finite: bool  # with noise, as it will be used

    def within(self, tolerance: Tolerance) -> bool:
        """Whether all of it is tolerable."""
        return self.finite and self.audio <= tolerance.audio and self.out_of_reach == 0

    def __str__(self) -> str:
        return (
            f"{self.runs} utterances against JAX: audio within {self.audio:.1e} relative, "
            f"{self.other_durations} of {self.phonemes} durations different"
        )


def session(model: onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """The model in onnxruntime, on the CPU with so many threads (0: one for each core)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Else its threads go on spinning after a run, on the cores that the next session needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def with_durations(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that lists the durations as an output, as Piper's runtime makes it."""
    listed = onnx.ModelProto()
    listed.CopyFrom(model)
    if all(output.name != Names.DURATIONS for output in listed.graph.output):
        listed.graph.output.append(onnx.ValueInfoProto(name=Names.DURATIONS))
    return listed


def feed(
    ids: np.ndarray, speaker: int, n_speakers: int, scales: tuple[float, float, float]
) -> dict[str, np.ndarray]:
    """Inputs of one utterance: ids int ``[P]``; `scales` are noise, length, noise_w."""
    inputs: dict[str, np.ndarray] = {
        Names.IDS: ids[None].astype(np.int64),
        Names.LENGTHS: np.asarray([len(ids)], np.int64),
        Names.SCALES: np.asarray(scales, np.float32),
    }
    if n_speakers > 1:
        inputs[Names.SPEAKER] = np.asarray([speaker], np.int64)
    return inputs


@dataclass(frozen=True)
class _Case:
    """One utterance and what the export made of it."""

    ids: np.ndarray
    speaker: int
    length_scale: float
    durations: np.ndarray  # float32 [P]
    audio: np.ndarray  # float32 [samples]


def compare(model: onnx.ModelProto, voice: Voice, tolerance: Tolerance) -> Agreement:
    """Run several lengths, scales and speakers without noise on both sides.

    Durations are compared first; then JAX speaks with the export's durations.

    Args:
        model: as `graph.whole` gives it, with its weights in any form.
        voice: what it was made from.
        tolerance: what to count as out of reach.
    """
    run = session(with_durations(model)).run
    n_speakers = voice.config.model.num_speakers
    cases = []
    for round_, (number, ids) in itertools.product(range(2), enumerate(texts(voice))):
        scale = LENGTH_SCALES[(number + round_) % len(LENGTH_SCALES)]
        speaker = (0, n_speakers - 1)[round_]
        audio, durations = run(
            [Names.AUDIO, Names.DURATIONS], feed(ids, speaker, n_speakers, (0.0, scale, 0.0))
        )
        cases.append(_Case(ids, speaker, scale, durations[0, 0], audio[0, 0, 0]))
    noisy = run([Names.AUDIO], feed(cases[0].ids, 0, n_speakers, (0.667, 1.0, 0.8)))[0]

    total = max(int(case.durations.sum()) for case in cases)
    n_frames = min(bucket(max(total, 1), SMALLEST_FRAMES), MOST_FRAMES)
    results = [_against_jax(voice, case, tolerance, n_frames) for case in cases]
    return Agreement(
        audio=max(audio for audio, _, _ in results),
        other_durations=sum(other for _, other, _ in results),
        out_of_reach=sum(out for _, _, out in results),
        phonemes=sum(len(case.ids) for case in cases),
        runs=len(cases),
        finite=bool(np.isfinite(noisy).all()) and noisy.size > 0,
    )


def texts(voice: Voice) -> list[np.ndarray]:
    """Phoneme ids, each int64 ``[P]``: start, pads, phonemes, end, all that the map knows."""
    known = [ids[0] for ids in voice.phoneme_id_map.values() if len(ids) == 1]
    random = np.random.default_rng(0)
    texts = []
    for length in LENGTHS:
        ids = np.zeros(length, np.int64)
        ids[0], ids[-1] = 1, 2
        ids[2:-1:2] = random.choice(known, len(ids[2:-1:2]))
        texts.append(ids)
    return texts


def _against_jax(
    voice: Voice, case: _Case, tolerance: Tolerance, n_frames: int
) -> tuple[float, int, int]:
    """Relative distance of the audio; durations that differ; those that differ too much."""
    length = len(case.ids)
    ids = np.zeros((1, bucket(max(LENGTHS), 64)), np.int32)
    ids[0, :length] = case.ids
    speakers, seeds = np.asarray([case.speaker], np.int32), np.zeros(1, np.uint32)

    def encode(length_scale: float) -> EncodedText:
        scales = np.float32(length_scale), np.float32(0.0)
        lengths = np.asarray([length], np.int32)
        text = voice.stages.encode(voice.parameters, ids, lengths, speakers, seeds, *scales)
        return jax.device_get(text)

    text = encode(case.length_scale)
    # A duration on the edge of a whole number may be rounded up on one side alone: what
    # it is with a little less and a little more of everything tells which those are.
    least = encode(case.length_scale * (1 - tolerance.durations)).durations[0, :length]
    most = encode(case.length_scale * (1 + tolerance.durations)).durations[0, :length]
    theirs = case.durations.astype(np.int64)
    other = theirs != text.durations[0, :length]
    out_of_reach = (theirs < least) | (theirs > most)

    durations = np.zeros_like(text.durations)
    durations[0, :length] = theirs
    audio, _ = voice.stages.decode(
        voice.parameters,
        text._replace(durations=jax.numpy.asarray(durations)),
        speakers,
        seeds,
        np.float32(0.0),
        n_frames=n_frames,
    )
    samples = max(int(theirs.sum()), 1) * voice.config.audio.hop_length
    expected = np.asarray(audio)[0, : min(samples, audio.shape[1])]
    return _distance(case.audio, expected), int(other.sum()), int(out_of_reach.sum())


def _distance(got: np.ndarray, expected: np.ndarray) -> float:
    """``‖got - expected‖ / ‖expected‖``; infinite where they are not of one shape or finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(got - expected)) / size if size else float(np.linalg.norm(got))
