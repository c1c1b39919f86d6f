"""Synthesis and voice conversion against Piper's, without noise and with the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.parity import oracle
from tests.parity.cases import CASES, compiled
from tests.parity.comparing import assert_close
from tests.parity.conftest import Pair, make_pair
from tests.parity.injected import Injected, injected_into_oracle
from vits_jax.model.synthesizer import Synthesizer

BOUND = 1e-5


WITHOUT_NOISE, WITH_NOISE = (0.0, 1.0, 0.0), (0.667, 1.3, 0.8)  # noise, length, noise_w


def ours(
    pair: Pair, scales: tuple[float, float, float], *, n_frames: int, alone: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Durations [B, P], audio [B, n_frames * hop], speech in it [B] frames."""
    random = Injected(3)

    def synthesize(module: Synthesizer, ids: Any, lengths: Any, speakers: Any) -> Any:
        noise, length, noise_w = scales
        text = module.encode(ids, lengths, speakers, random, length_scale=length, noise_w=noise_w)
        audio, frames = module.decode(
            text, speakers, random, n_frames=n_frames, noise_scale=noise, alone=alone
        )
        return text.durations, audio, frames

    arguments = [pair.batch[key] for key in ("phoneme_ids", "phoneme_lengths", "speaker_ids")]
    return tuple(map(np.asarray, compiled(synthesize, pair.ours_g, *arguments)))


def theirs(
    pair: Pair, scales: tuple[float, float, float], rows: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of some rows, padded to the longest of them."""
    noise, length, noise_w = scales
    batch = oracle.torch_batch(pair.config, pair.batch)
    with torch.no_grad(), injected_into_oracle(randn_like="prior", first_row=rows.start):
        audio, path, y_mask, _ = pair.theirs_g.infer(
            batch.phoneme_ids[rows],
            batch.phoneme_lengths[rows],
            sid=None if batch.speaker_ids is None else batch.speaker_ids[rows],
            noise_scale=noise,
            length_scale=length,
            noise_scale_w=noise_w,
        )
    # The path, summed over the frames, is the durations.
    return path.sum(2)[:, 0].numpy(), audio[:, 0].numpy(), y_mask.sum((1, 2)).numpy()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scales", [WITHOUT_NOISE, WITH_NOISE])
def test_each_row_as_if_alone(name: str, scales: tuple[float, float, float]) -> None:
    """Padded phonemes and frames change nothing."""
    pair = make_pair(name)
    durations, audio, frames = ours(pair, scales, n_frames=160, alone=True)
    hop = pair.config.audio.hop_length
    for row in range(3):
        their_durations, their_audio, _ = theirs(pair, scales, slice(row, row + 1))
        np.testing.assert_array_equal(durations[row], their_durations[0])
        assert frames[row] == their_durations.sum() < 160
        assert_close(audio[row, : frames[row] * hop], their_audio[0], BOUND, f"row {row}")


def test_a_batch_as_piper_runs_it() -> None:
    pair = make_pair("multi-resblock1-sdp")
    their_durations, their_audio, their_frames = theirs(pair, WITH_NOISE, slice(0, 3))
    n_frames = int(their_frames.max())
    durations, audio, frames = ours(pair, WITH_NOISE, n_frames=n_frames, alone=False)
    np.testing.assert_array_equal(durations, their_durations)
    np.testing.assert_array_equal(frames, their_frames)
    assert_close(audio, their_audio, BOUND)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("multi")])
def test_voice_conversion(name: str) -> None:
    pair = make_pair(name)
    rows = oracle.torch_batch(pair.config, pair.batch)
    target = np.array([2, 0, 1], np.int32)
    assert not np.array_equal(target, pair.batch["speaker_ids"])
    spec, lengths = rows.spectrograms.transpose(1, 2).numpy(), rows.spectrogram_lengths.numpy()
    got = compiled(
        lambda module, *arguments: module.voice_conversion(*arguments, Injected(3)),
        pair.ours_g,
        spec,
        lengths.astype(np.int32),
        pair.batch["speaker_ids"],
        target,
    )
    with torch.no_grad(), injected_into_oracle():
        expected, _, _ = pair.theirs_g.voice_conversion(
            rows.spectrograms,
            rows.spectrogram_lengths,
            rows.speaker_ids,
            torch.tensor(target, dtype=torch.long),
        )
    assert_close(got, expected[:, 0].numpy(), BOUND)
