"""Samples of a voice: what each of its speakers sounds like, as MP3."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import soundfile
import soxr

from vits_jax.errors import RunFailed, UserError
from vits_jax.voice.graph import Names
from vits_jax.voice.speech import joined, to_int16
from vits_jax.voice.texts import phonemize
from vits_jax.voice.verify import feed, session

_LOGGER = logging.getLogger(__name__)
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # that MP3 knows
_PAUSE = 0.2  # seconds between sentences


def check_format() -> None:
    """Raise `UserError` where MP3 cannot be written."""
    if "MP3" not in soundfile.available_formats():
        raise UserError(
            f"--samples: libsndfile {soundfile.__libsndfile_version__} does not write MP3: "
            "expected 1.1 or later"
        )


def sentences_of(config: Mapping[str, Any], text: str) -> list[list[int]]:
    """Its phoneme ids; symbols that the voice does not know are told of.

    Raises:
        UserError: nothing of it can be said.
    """
    sentences, missing = phonemize(config, text)
    if missing:
        symbols = ", ".join(f"{symbol!r} ({count})" for symbol, count in missing.items())
        _LOGGER.warning("samples: not in the voice's phoneme map, left out: %s", symbols)
    return sentences


def samples(
    model: onnx.ModelProto, config: Mapping[str, Any], sentences: Sequence[Sequence[int]]
) -> Iterator[bytes]:
    """An MP3 of each speaker, spoken by the graph with the voice's own scales.

    Raises:
        RunFailed: what was computed is no sound.
    """
    onnxruntime.set_seed(0)  # taken by what draws random numbers, when it is made
    run = session(model).run
    n_speakers, rate = config["num_speakers"], config["audio"]["sample_rate"]
    said = config["inference"]
    scales = said["noise_scale"], said["length_scale"], said["noise_w"]
    for speaker in range(n_speakers):
        spoken = []
        for ids in sentences:
            inputs = feed(np.asarray(ids), speaker, n_speakers, scales)
            spoken.append(np.asarray(run([Names.AUDIO], inputs)[0]).reshape(-1))
        audio = joined(spoken, round(_PAUSE * rate))
        if not np.isfinite(audio).all():
            raise RunFailed(
                f"the sample of speaker {speaker} came out as numbers that are not finite"
            )
        yield mp3(audio, rate)


def mp3(audio: np.ndarray, rate: int) -> bytes:
    """float ``[samples]`` as MP3, at the next rate that it knows."""
    known = next((each for each in _RATES if each >= rate), _RATES[-1])
    if known != rate:
        audio = soxr.resample(audio, rate, known)
    file = io.BytesIO()
    soundfile.write(file, to_int16(audio), known, format="MP3", subtype="MPEG_LAYER_III")
    return file.getvalue()
