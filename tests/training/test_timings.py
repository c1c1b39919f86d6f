"""Which phoneme a frame of a recording says, by somebody else's speech of it; and pieces of it."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from tests.runs import small, write_dataset
from vits_jax.config import Config
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.model.networks import GENERATOR
from vits_jax.state import create_state
from vits_jax.training.pieces import NUMBER, Pieces
from vits_jax.training.prepared import of_dataset
from vits_jax.training.timings import timed, timings
from vits_jax.voice.speech import make_stages

RATE = 22050
# Formants of each phoneme, hertz; None is silence.
PHONEMES = [None, (300, 2300), (700, 1200), None, (350, 800), (500, 1800), (250, 2600), None]


def said(durations: list[int], hop: int, pitch: float, tilt: float) -> np.ndarray:
    """Vowels by harmonics of a pitch under resonances, ``durations`` in frames of ``hop``."""
    random = np.random.default_rng(int(pitch))
    parts, number = [], np.arange(1, int(RATE / 2 / pitch))
    for formants, frames in zip(PHONEMES, durations, strict=True):
        time = np.arange(frames * hop) / RATE
        part = 1e-4 * random.normal(size=len(time))
        if formants is not None:
            near = sum(np.exp(-(((number * pitch - f) / 150) ** 2)) for f in formants)
            weight = near * number**tilt
            part += 0.1 * weight @ np.sin(2 * np.pi * pitch * number[:, None] * time)
        parts.append(part)
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("hop", [256, 512])
def test_two_people_say_one_text(hop: int) -> None:
    """Another pitch, loudness and tempo: the boundaries are found within three frames of 256."""
    ours, theirs = [6, 20, 9, 3, 14, 25, 12, 8], [14, 11, 16, 12, 9, 12, 20, 5]
    spoken, recording = said(ours, hop, 110, -0.3), 0.3 * said(theirs, hop, 210, -0.6)
    found = timed(spoken, np.array(ours), recording, hop, RATE)
    assert found.shape == (sum(theirs),) and found.dtype == np.int32
    assert (np.diff(found) >= 0).all()
    ends = np.searchsorted(found, np.arange(len(theirs)), side="right")
    assert np.abs(ends - np.cumsum(theirs)).max() <= 3 * 256 / hop


def test_its_own_speech_is_timed_exactly() -> None:
    durations = np.array([6, 20, 9, 3, 14, 25, 12, 8])
    speech = said(durations.tolist(), 256, 110, -0.3)
    found = timed(speech, durations, speech, 256, RATE)
    np.testing.assert_array_equal(found, np.repeat(np.arange(8), durations))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Dataset]:
    directory = write_dataset(tmp_path_factory.mktemp("timings") / "data", speakers=2)
    config = of_dataset(small(directory, "run"))
    of_audio = {"hop_length": config.audio.hop_length, "min_samples": config.audio.min_samples}
    return config, load_dataset(directory, **of_audio)


def test_a_voice_times_the_recordings(
    corpus: tuple[Config, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = corpus
    generator = create_state(config, jax.random.key(1)).params[GENERATOR]
    arguments = make_stages(config), config, generator, dataset, np.arange(4)
    found = timings(*arguments)
    assert found
    for row, phonemes in found.items():
        assert len(phonemes) == dataset.samples[row] // config.audio.hop_length
        assert phonemes.min() >= 0 and phonemes.max() < len(dataset.phoneme_ids(row))
        assert (np.diff(phonemes) >= 0).all()
    assert timings(*arguments, lambda: True) == {}

    lengths = {row: len(phonemes) for row, phonemes in found.items()}
    most = max(lengths.values()) - 1
    monkeypatch.setattr("vits_jax.training.timings.MOST_FRAMES", most)
    assert all(lengths[row] <= most for row in timings(*arguments))
    monkeypatch.setattr("vits_jax.training.timings.MOST_FRAMES", 1)
    assert timings(*arguments) == {}


def test_pieces_are_of_the_recordings(
    corpus: tuple[Config, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audio, phonemes and speaker of one place; the same ones at a step, others at the next."""
    config, dataset = corpus
    size, hop = 32, config.audio.hop_length  # shorter than any recording
    monkeypatch.setattr("vits_jax.training.pieces.FRAMES", size)
    frames = {row: int(dataset.samples[row]) // hop for row in range(6)}
    timed_rows = {
        row: np.minimum(np.arange(n) // 3, len(dataset.phoneme_ids(row)) - 1).astype(np.int32)
        for row, n in frames.items()
    }
    # One is shorter than a piece.
    timed_rows[5] = timed_rows[5][: size // 2]
    random = np.random.default_rng(0)
    priors = {
        row: tuple(random.normal(size=(2, len(dataset.phoneme_ids(row)), 3)).astype(np.float32))
        for row in timed_rows
    }
    pieces = Pieces(config, dataset, timed_rows, priors)
    lengths = set()
    for step in range(8):
        piece = jax.tree.map(np.asarray, pieces(step))
        assert piece.audio.shape == (NUMBER, size * hop)
        for i, n in enumerate(piece.frames):
            lengths.add(int(n))
            heard = piece.audio[i, : n * hop]
            assert n and not piece.audio[i, n * hop :].any()
            places = [
                (row, start)
                for row, of in timed_rows.items()
                for start in range(len(of) - n + 1)
                if np.array_equal(dataset.audio(row)[start * hop : (start + n) * hop], heard)
            ]
            ids = piece.phoneme_ids[i, : piece.phoneme_lengths[i]]
            assert any(
                np.array_equal(priors[row][0][timed_rows[row][start : start + n]], piece.m_p[i, :n])
                and np.array_equal(
                    priors[row][1][timed_rows[row][start : start + n]], piece.logs_p[i, :n]
                )
                and np.array_equal(dataset.phoneme_ids(row), ids)
                and dataset.speaker_ids[row] == piece.speaker_ids[i]
                for row, start in places
            )
    assert size // 2 in lengths
    again, other = (jax.tree.map(np.asarray, pieces(step)) for step in (7, 8))
    np.testing.assert_array_equal(again.audio, piece.audio)
    assert not np.array_equal(other.audio, piece.audio)
