"""The alignment on the device against the search that Piper's training uses."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
import torch

from tests.parity.alignment_reference import maximum_path_batch
from tests.parity.comparing import assert_close
from vits_jax.model.alignment import log_likelihood, spread
from vits_jax.model.alignment_kernel import on_gpu, on_tpu
from vits_jax.model.alignment_loop import durations_by_loop, maximum_path

LENGTHS = {
    "random": ([40, 31, 23], [12, 9, 20]),
    "one phoneme": ([9, 1], [1, 1]),
    "as many phonemes as frames": ([8, 5, 1], [8, 5, 1]),
    "one frame to spare": ([9, 6], [8, 5]),
    "more than a TPU's lanes, two programs": ([140, *range(5, 37)], [131, *range(5, 37)]),
}


def expected_path(scores: np.ndarray, frames: np.ndarray, phonemes: np.ndarray) -> np.ndarray:
    """Path as one-hot rows, by the reference."""
    _, n_frames, n_phonemes = scores.shape
    mask = (np.arange(n_frames)[:, None] < frames[:, None, None]) & (
        np.arange(n_phonemes) < phonemes[:, None, None]
    )
    return maximum_path_batch(scores, mask.astype(np.float32))


PATH = jax.jit(maximum_path)
DURATIONS = {
    "loop": jax.jit(durations_by_loop),
    "TPU kernel, interpreted": jax.jit(functools.partial(on_tpu, interpret=True)),
    "GPU kernel, interpreted": jax.jit(functools.partial(on_gpu, interpret=True)),
}


def check(scores: np.ndarray, frames: list[int], phonemes: list[int]) -> None:
    frames, phonemes = np.asarray(frames, np.int32), np.asarray(phonemes, np.int32)
    expected = expected_path(scores, frames, phonemes)
    path = np.asarray(PATH(scores, phonemes, frames))
    got = np.eye(scores.shape[2])[path] * (np.arange(scores.shape[1]) < frames[:, None])[..., None]
    np.testing.assert_array_equal(got, expected)
    for form, counted in DURATIONS.items():
        got = counted(scores, phonemes, frames)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, expected.sum(1), err_msg=form)
    np.testing.assert_array_equal(spread(got, scores.shape[1], np.float32), expected)


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e9])
def test_random_scores(name: str, scale: float) -> None:
    frames, phonemes = LENGTHS[name]
    rng = np.random.default_rng(0)
    scores = rng.normal(-10, scale, (len(frames), max(frames) + 3, max(phonemes) + 2))
    check(scores.astype(np.float32), frames, phonemes)


@pytest.mark.parametrize("name", LENGTHS)
def test_tied_scores(name: str) -> None:
    """Small whole numbers: sums are exact and many paths score the same."""
    frames, phonemes = LENGTHS[name]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        scores = rng.integers(-2, 1, (len(frames), max(frames) + 3, max(phonemes) + 2))
        check(scores.astype(np.float32), frames, phonemes)
    check(np.zeros(scores.shape, np.float32), frames, phonemes)


def test_log_likelihood() -> None:
    rng = np.random.default_rng(0)
    z, m, logs = rng.normal(size=(2, 7, 4)), rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 5, 4))
    got = jax.jit(log_likelihood)(*(x.astype(np.float32) for x in (z, m, logs)))
    normal = torch.distributions.Normal(torch.tensor(m)[:, None], torch.tensor(logs).exp()[:, None])
    expected = normal.log_prob(torch.tensor(z)[:, :, None]).sum(3)
    assert_close(got, expected.numpy(), 1e-5)
