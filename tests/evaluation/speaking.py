"""Small voices that say something: as ONNX files, and as a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.runs import HOP, RATE, SMALL, SYMBOLS
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.config import FIELDS, Config, convert
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.voice import graph

VOICE_JSON = {
    "audio": {"sample_rate": RATE},
    "hop_length": HOP,
    "num_symbols": len(SYMBOLS),
    "num_speakers": 2,
    "speaker_id_map": {"speaker 0": 0, "speaker 1": 1},
    "phoneme_type": "text",
    "phoneme_id_map": {symbol: [i] for i, symbol in enumerate(SYMBOLS)},
    "inference": {"noise_scale": 0.5, "length_scale": 1.0, "noise_w": 0.7},
}


def config(speakers: int = 2) -> Config:
    values = {name: convert(value, FIELDS[name].type, name) for name, value in SMALL.items()}
    values |= {"num_symbols": len(SYMBOLS), "num_speakers": speakers, "sample_rate": RATE}
    return Config().replaced(values)


def weights(of: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Nobody trained them; they make a noise."""
    random = np.random.default_rng(seed)
    return {
        name: (0.2 * random.normal(size=shape)).astype(np.float32)
        for name, shape in parameter_shapes(of)[GENERATOR].items()
    }


def write_onnx(
    path: Path, speakers: int = 2, seed: int = 0, gain: float = 1.0, **changed: object
) -> Path:
    """A voice and its JSON; `gain` of its last layer makes it louder or quieter."""
    of = config(speakers)
    values = weights(of, seed)
    values["dec.conv_post.weight"] *= gain
    path.write_bytes(graph.whole(of, values).SerializeToString())
    voice_json = VOICE_JSON | {"num_speakers": speakers} | changed
    path.with_name(f"{path.name}.json").write_text(json.dumps(voice_json))
    return path


def write_checkpoint(path: Path, seed: int = 0) -> Path:
    """A run directory with a step of the same network."""
    of = config()
    onnx_voice.write(path, onnx_voice.Recovered(of, dict(VOICE_JSON), weights(of, seed)))
    return path
