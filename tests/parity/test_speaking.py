"""Synthesis and voice conversion against Piper's, without noise and with the same noise."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from tests.parity import oracle
from tests.parity.cases import CASES
from tests.parity.comparing import assert_close
from tests.parity.conftest import Pair, make_pair
from tests.parity.injected import Injected, injected_into_oracle

BOUND = 1e-5


def speak(
    pair: Pair, noise_scale: float, length_scale: float, noise_w: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Our durations, audio and lengths in frames, in a bucket longer than the speech."""
    rows, random = pair.batch, Injected(3)

    def synthesize(module, ids, lengths, speakers):
        text = module.encode(
            ids, lengths, speakers, random, length_scale=length_scale, noise_w=noise_w
        )
        audio, frames = module.decode(
            text, speakers, random, n_frames=FRAMES, noise_scale=noise_scale
        )
        return text.durations, audio, frames

    arguments = (rows["phoneme_ids"], rows["phoneme_lengths"], rows["speaker_ids"])
    return tuple(map(np.asarray, jax.jit(synthesize)(pair.ours_g, *arguments)))


FRAMES = 160


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scales", [(0.0, 1.0, 0.0), (0.667, 1.3, 0.8)])
def test_synthesis(name: str, scales: tuple[float, float, float]) -> None:
    pair = make_pair(name)
    durations, audio, frames = speak(pair, *scales)
    rows = oracle.torch_batch(pair.config, pair.batch)
    with torch.no_grad(), injected_into_oracle(randn_like="prior"):
        expected, path, y_mask, _ = pair.theirs_g.infer(
            rows.phoneme_ids,
            rows.phoneme_lengths,
            sid=rows.speaker_ids,
            noise_scale=scales[0],
            length_scale=scales[1],
            noise_scale_w=scales[2],
        )
    # The oracle's path, summed over frames, is its durations.
    np.testing.assert_array_equal(durations, path.sum(2)[:, 0].numpy())
    np.testing.assert_array_equal(frames, y_mask.sum((1, 2)).numpy())
    assert frames.max() < FRAMES
    hop = pair.config.audio.hop_length
    for row, length in enumerate(frames):
        # The decoder looks past the end, into zeros on both sides.
        ours, theirs = audio[row, : length * hop], expected[row, 0, : length * hop].numpy()
        assert_close(ours, theirs, BOUND, f"row {row}")


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("multi")])
def test_voice_conversion(name: str) -> None:
    pair = make_pair(name)
    rows = oracle.torch_batch(pair.config, pair.batch)
    target = np.array([2, 0, 1], np.int32)
    assert not np.array_equal(target, pair.batch["speaker_ids"])
    spec, lengths = rows.spectrograms.transpose(1, 2).numpy(), rows.spectrogram_lengths.numpy()
    got = jax.jit(lambda module, *arguments: module.voice_conversion(*arguments, Injected(3)))(
        pair.ours_g, spec, lengths.astype(np.int32), pair.batch["speaker_ids"], target
    )
    with torch.no_grad(), injected_into_oracle():
        expected, _, _ = pair.theirs_g.voice_conversion(
            rows.spectrograms,
            rows.spectrogram_lengths,
            rows.speaker_ids,
            torch.tensor(target, dtype=torch.long),
        )
    assert_close(got, expected[:, 0].numpy(), BOUND)
