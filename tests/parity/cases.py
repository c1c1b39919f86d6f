"""Small configurations and batches that go through every branch of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vits_jax.compilation import options_for
from vits_jax.composed import Composed
from vits_jax.config import AudioConfig, Config, ModelConfig

AUDIO = AudioConfig(
    sample_rate=8000, filter_length=64, hop_length=16, win_length=64, mel_channels=10
)
SEGMENT_FRAMES = 8
ONE_DEVICE = jax.sharding.Mesh(jax.devices()[:1], ("data",))
# The same graph as ever, compiled as it is for users, but LLVM spends half the time on it.
QUICK_COMPILATION = {**(options_for("cpu") or {}), "xla_backend_optimization_level": "0"}


def tiny(*, speakers: int = 1, resblock: str = "2", use_sdp: bool = True) -> Config:
    """Every part of the model at its smallest: hop 16, hidden 16, discriminators of width 64."""
    dilations = ((1, 2), (2, 6)) if resblock == "2" else ((1, 3, 5), (1, 2, 4))
    model = ModelConfig(
        num_symbols=24,
        num_speakers=speakers,
        resblock=resblock,
        resblock_kernel_sizes=(3, 5),
        resblock_dilation_sizes=dilations,
        upsample_rates=(4, 4),
        upsample_initial_channel=32,
        upsample_kernel_sizes=(8, 8),
        inter_channels=16,
        hidden_channels=16,
        filter_channels=32,
        n_layers=2,
        gin_channels=8 if speakers > 1 else 0,
        use_sdp=use_sdp,
        segment_size=SEGMENT_FRAMES * AUDIO.hop_length,
        discriminator_width=64,
    )
    return Config(audio=AUDIO, model=model)


CASES = {
    "single-resblock2-sdp": tiny(),
    "single-resblock2-plain": tiny(use_sdp=False),
    "multi-resblock1-sdp": tiny(speakers=3, resblock="1"),
    "multi-resblock1-plain": tiny(speakers=3, resblock="1", use_sdp=False),
}


def smallest(*, resblock: str = "2") -> Config:
    """For what needs a whole step compiled in float64, several speakers, stochastic durations."""
    config = tiny(speakers=3, resblock=resblock)
    return config.replaced(
        {
            "n_layers": 1,
            "resblock_kernel_sizes": config.model.resblock_kernel_sizes[:1],
            "resblock_dilation_sizes": config.model.resblock_dilation_sizes[:1],
            "discriminator_width": 16,
        }
    )


def batch(
    config: Config,
    *,
    frames: tuple[int, ...] = (22, 30, 17),
    phonemes: tuple[int, ...] = (9, 7, 11),
    bucket: tuple[int, int] = (12, 32),
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Utterances of ragged lengths, padded to ``bucket`` (phonemes, frames), as data/ makes them.

    Lengths in samples are not multiples of the hop: the rest is in no frame.
    """
    rng = np.random.default_rng(seed)
    rows, hop = len(frames), config.audio.hop_length
    ids = np.zeros((rows, bucket[0]), np.int32)
    audio = np.zeros((rows, bucket[1] * hop), np.int16)
    samples = np.asarray(frames) * hop + rng.integers(0, hop, rows)
    samples = np.minimum(samples, bucket[1] * hop)
    for row in range(rows):
        ids[row, : phonemes[row]] = rng.integers(1, config.model.num_symbols, phonemes[row])
        wave = rng.normal(0, 1, samples[row]).cumsum()
        wave -= wave.mean()
        audio[row, : samples[row]] = np.round(20000 * wave / np.abs(wave).max())
    return {
        "phoneme_ids": ids,
        "phoneme_lengths": np.asarray(phonemes, np.int32),
        "audio": audio,
        "audio_lengths": samples.astype(np.int32),
        "speaker_ids": rng.integers(0, config.model.num_speakers, rows).astype(np.int32),
        "weight": np.ones(rows, np.float32),
    }


def to_jax(parameters: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """A flat dict on the device; float64 stays float64 only where jax has 64 bits enabled."""
    return {name: jnp.asarray(array) for name, array in parameters.items()}


def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in one compiled piece, the arguments not constants of it."""
    return jax.jit(function).lower(*arguments).compile(QUICK_COMPILATION)(*arguments)


Programs = dict[str, Callable[..., Any]]


def quickly(step: Composed, programs: Programs | None = None) -> Callable[..., Any]:
    """A composed function whose pieces are compiled as the tests compile, each once.

    Args:
        step: the function.
        programs: what is compiled already, by name; the others come to it.
    """
    programs = {} if programs is None else programs

    def call(name: str, *arguments: Any) -> Any:
        if name not in programs:
            lowered = step.functions[name].jitted.lower(*arguments)
            programs[name] = lowered.compile(QUICK_COMPILATION)
        return programs[name](*arguments)

    return lambda *arguments: step.compose(call, *arguments)
