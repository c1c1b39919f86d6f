"""Whatever a recording's rate, depth, channels and container, the model hears the same pitch."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.tones import HOP, MIN_SAMPLES, tone, write_corpus
from vits_jax.commands.preprocess import main
from vits_jax.data.batching.batches import Bucket, load_batch
from vits_jax.data.manifest import load_dataset

RATES = (8000, 16000, 22050, 24000, 44100, 48000)
SECONDS, HERTZ = 0.8, 1000.0
OPUS = 48000  # it has no other than 8, 12, 16, 24 and 48 kHz


def recordings() -> list[tuple[str, int, int, dict[str, str]]]:
    """Name, rate, channels and how it is written."""
    depths = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")
    made = [
        (f"{rate}_{channels}_{depth}.wav", rate, channels, {"subtype": depth})
        for rate, channels, depth in itertools.product(RATES, (1, 2), depths)
    ]
    for rate, channels in itertools.product(RATES, (1, 2)):
        made += [
            (f"{rate}_{channels}.{kind.lower()}", rate, channels, {"format": kind})
            for kind in ("FLAC", "MP3", "OGG")
        ]
        made.append((f"{rate}_{channels}_24.flac", rate, channels, {"subtype": "PCM_24"}))
    made.append((f"{OPUS}_2.opus", OPUS, 2, {"format": "OGG", "subtype": "OPUS"}))
    made.append(("22050_6.wav", 22050, 6, {"subtype": "PCM_16"}))
    return made


@pytest.mark.parametrize("voice_rate", [16000, 22050])
def test_a_tone_keeps_its_pitch_on_the_whole_way(tmp_path: Path, voice_rate: int):
    made = recordings()
    corpus = write_corpus(tmp_path / "corpus", [f"{name}|a" for name, *_ in made])
    for name, rate, channels, how in made:
        audio = np.stack([tone(SECONDS, rate, HERTZ)] * channels, axis=1)
        soundfile.write(corpus / "wavs" / name, audio, rate, **how)
    flags = f"--sample-rate {voice_rate} --language en-us --dataset-format ljspeech --max-workers 1"
    where = ["--input-dir", str(corpus), "--output-dir", str(tmp_path / "out")]
    assert main([*where, *flags.split(), "--phoneme-type", "text"]) == 0
    dataset = load_dataset(tmp_path / "out", hop_length=HOP, min_samples=MIN_SAMPLES)
    assert len(dataset) == len(made)
    bucket = Bucket(8, 1 + int(1.2 * SECONDS * voice_rate) // HOP, 1)
    batch = load_batch(dataset, bucket, np.arange(len(made)), np.ones(len(made)), HOP)
    for (name, _, _, how), audio, length in zip(made, batch["audio"], batch["audio_lengths"]):
        assert audio.dtype == np.int16
        assert not audio[length:].any()
        seconds = length / voice_rate
        lossy = how.get("format") in ("MP3", "OGG")  # which pads to whole blocks
        assert seconds == pytest.approx(SECONDS, abs=0.06 if lossy else 1.5 / voice_rate), name
        middle = audio[length // 4 : 3 * length // 4] / 32768.0
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 17))
        assert np.argmax(spectrum) * voice_rate / (1 << 17) == pytest.approx(HERTZ, abs=0.5), name
        assert np.std(middle) == pytest.approx(0.5 / np.sqrt(2), rel=0.03), name


@pytest.mark.parametrize("extension", [".wav", ".flac", ".mp3", ".ogg", ".opus"])
@pytest.mark.parametrize("folder", ["", "wav", "wavs"])
def test_names_without_extension(tmp_path: Path, folder: str, extension: str):
    from vits_jax.data.corpora.corpus import read_corpus

    (tmp_path / folder).mkdir(exist_ok=True)
    path = tmp_path / folder / f"a.b{extension}"
    path.write_bytes(b"not looked at here")
    for name in ("a.b", f"a.b{extension}"):
        (tmp_path / "metadata.csv").write_text(f"{name}|Hello.\n")
        (row,) = read_corpus(tmp_path, "ljspeech").rows
        assert row.audio_path == path
