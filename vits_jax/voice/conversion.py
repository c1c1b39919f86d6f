"""Voice conversion: what one speaker said, said by another (VITS, 4.4)."""

from __future__ import annotations

import numpy as np

from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.parameters import Parameters
from vits_jax.voice.speech import MOST_FRAMES, SMALLEST_FRAMES, Stages, bucket


def convert(
    stages: Stages,
    parameters: Parameters,
    config: Config,
    audio: np.ndarray,
    source: int,
    target: int,
    seed: int = 0,
) -> np.ndarray:
    """One recording.

    Args:
        stages: of `make_stages`.
        parameters: the generator's.
        audio: float ``[samples]`` in [-1, 1] at the voice's rate.
        source, target: ids of who speaks and who should.
        seed: of the posterior's noise.

    Returns:
        float32 ``[samples // hop * hop]`` in [-1, 1].

    Raises:
        UserError: too short to be analysed, or longer than is computed at once.
    """
    hop, rate = config.audio.hop_length, config.audio.sample_rate
    frames = len(audio) // hop
    if len(audio) < config.audio.min_samples:
        raise UserError(
            f"the recording has {len(audio)} samples at {rate} Hz: "
            f"expected at least {config.audio.min_samples}"
        )
    if frames > MOST_FRAMES:
        raise UserError(
            f"the recording is {len(audio) / rate:.0f} s long: "
            f"expected at most {MOST_FRAMES * hop / rate:.0f} s"
        )
    # One frame more than whole ones, for the samples that the last is reflected from.
    padded = np.zeros((1, bucket(frames + 1, SMALLEST_FRAMES) * hop), np.float32)
    padded[0, : len(audio)] = audio
    converted = stages.convert(
        parameters,
        padded,
        np.asarray([len(audio)], np.int32),
        np.asarray([source], np.int32),
        np.asarray([target], np.int32),
        np.asarray([seed], np.uint32),
    )
    return np.asarray(converted)[0, : frames * hop]
