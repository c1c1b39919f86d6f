"""What lies beside a voice's graph: its configuration, its tokens, its metadata."""

from __future__ import annotations

import json
from typing import Any

from vits_jax.presets import quality_of
from vits_jax.text.languages import with_language_block
from vits_jax.voice.voice import Voice

_INFERENCE = {"noise_scale": 0.667, "length_scale": 1, "noise_w": 0.8}


def voice_config(voice: Voice, name: str) -> dict[str, Any]:
    """``NAME.onnx.json`` in Piper's schema: the dataset's own, completed and made playable.

    ``dataset`` becomes the file's name: wyoming-piper (Home Assistant) shows it, and before
    2.4 lists a voice under the one and looks for it under the other. ``audio.quality`` is the
    preset that the voice has the sizes of, unless the dataset says something else.

    Symbols of several characters are left out unless the voice clusters vowels: Piper's C++
    runtimes refuse a map that holds them, and no phonemizer makes them.
    """
    dataset = with_language_block(voice.dataset)
    audio = dict(dataset.get("audio") or {})
    quality = audio.get("quality") or quality_of(voice.config)
    clusters = bool(dataset.get("vowel_clusters"))
    symbols = {s: i for s, i in voice.phoneme_id_map.items() if clusters or len(s) == 1}
    return dataset | {
        "dataset": name,
        "audio": audio
        | {"sample_rate": voice.sample_rate}
        | ({"quality": quality} if quality else {}),
        "espeak": {"voice": ""} | dict(dataset.get("espeak") or {}),
        "inference": _INFERENCE | dict(dataset.get("inference") or {}),
        "phoneme_type": dataset.get("phoneme_type") or "espeak",
        "phoneme_id_map": symbols,
        "num_symbols": voice.config.model.num_symbols,
        "num_speakers": voice.config.model.num_speakers,
        "speaker_id_map": voice.speakers,
        "hop_length": voice.config.audio.hop_length,
    }


def to_json(config: dict[str, Any]) -> bytes:
    """The file's content."""
    return (json.dumps(config, ensure_ascii=False, indent=2) + "\n").encode()


def tokens(config: dict[str, Any]) -> bytes:
    """``tokens.txt`` for sherpa-onnx: a symbol and its first id a line."""
    lines = [f"{symbol} {ids[0]}\n" for symbol, ids in config["phoneme_id_map"].items()]
    return "".join(line for line in lines if line.count("\n") == 1).encode()


def metadata(config: dict[str, Any]) -> dict[str, str]:
    """What sherpa-onnx reads from the graph itself."""
    espeak, language = config["espeak"]["voice"], config.get("language") or {}
    return {
        "model_type": "vits",
        "comment": "piper",
        "language": str(language.get("name_english") or language.get("code") or espeak or "en"),
        "voice": str(espeak),
        "has_espeak": str(int(config["phoneme_type"] == "espeak")),
        "n_speakers": str(config["num_speakers"]),
        "sample_rate": str(config["audio"]["sample_rate"]),
    }
