"""This project's preparation against Piper's own, live."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.tones import HOP, MIN_SAMPLES, RATE, write_corpus
from vits_jax.commands.preprocess import main
from vits_jax.data.corpora import audio_files
from vits_jax.data.manifest import load_dataset

torch = pytest.importorskip("torch", reason="Piper's trainer needs torch")
VitsDataModule = pytest.importorskip("piper.train.vits.dataset").VitsDataModule


class LoudIsSpeech:
    """A detector that both sides can ask: what is loud is speech."""

    def chunk_samples(self) -> int:
        return 512

    def reset(self) -> None:
        pass

    def process_array(self, chunk: np.ndarray) -> float:
        return float(np.abs(chunk).max())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9000)), min_size=1, max_size=6),
    st.sampled_from([8000, 16000, 22050, 44100]),
)
def test_the_same_samples_are_kept(parts: list[tuple[bool, int]], rate: int):
    loud = np.concatenate([np.full(length, 0.3 * speech) for speech, length in parts])
    audio_16khz = loud.astype(np.float32)
    audio = np.arange(int(len(loud) * rate / 16000), dtype=np.float32)
    module = VitsDataModule("x.csv", "cache", "en-us", "config.json", "voice")
    expected = module._trim_silence(audio, audio_16khz, LoudIsSpeech())
    got = audio_files.trim_silence(audio, audio_16khz, LoudIsSpeech())
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_decoding_and_resampling(tmp_path: Path, rate: int, channels: int):
    import librosa

    audio = np.random.default_rng(rate).uniform(-0.5, 0.5, (rate // 3 + 7, channels))
    soundfile.write(tmp_path / "a.wav", audio, rate)
    decoded, native, _ = audio_files.decode(tmp_path / "a.wav")
    for target in (16000, 22050):
        expected = librosa.load(tmp_path / "a.wav", sr=target)[0]
        np.testing.assert_array_equal(
            audio_files.resample(decoded, native, target), expected.astype(np.float32)
        )


def piper(corpus: Path, cache: Path, rate: int, speakers: int = 1) -> list[tuple]:
    """(phoneme ids, audio) of each utterance, as Piper caches them."""
    VitsDataModule(
        csv_path=corpus / "metadata.csv",
        cache_dir=cache,
        espeak_voice="en-us",
        config_path=cache / "config.json",
        voice_name="voice",
        sample_rate=rate,
        audio_dir=corpus / "wavs",
        num_speakers=speakers,
    ).prepare_data()

    def row(path: Path) -> int:
        return int(path.name.split("_")[0])

    return [
        (torch.load(ids).tolist(), torch.load(audio).numpy())
        for ids, audio in zip(
            sorted(cache.glob("*.phonemes.pt"), key=row),
            sorted(cache.glob("*.audio.pt"), key=row),
            strict=True,
        )
    ]


def ours(corpus: Path, prepared: Path, rate: int, workers: int = 1):
    flags = f"--language en-us --sample-rate {rate} --dataset-format ljspeech"
    where = ["--input-dir", str(corpus), "--output-dir", str(prepared)]
    assert main([*where, *flags.split(), "--max-workers", str(workers)]) == 0
    return load_dataset(prepared, hop_length=HOP, min_samples=MIN_SAMPLES)


def assert_same(dataset, expected: list[tuple]) -> None:
    assert len(dataset) == len(expected)
    for row, (ids, audio) in enumerate(expected):
        assert dataset.phoneme_ids(row).tolist() == ids
        assert len(dataset.audio(row)) == len(audio)
        assert np.abs(dataset.audio(row) / 32768.0 - np.clip(audio, -1, 32767 / 32768)).max() < 2e-5


@pytest.mark.parametrize("rate", [16000, 22050])
def test_a_corpus_of_tones(tmp_path: Path, rate: int):
    texts = ["One. Two! And three?", "Dr. Smith, at 3:45 pm; a café…", "no stop at the end"]
    lines = [f"{name}|{text}" for name, text in zip("abc", texts, strict=True)]
    write_corpus(tmp_path / "corpus", lines, dict.fromkeys("abc", 3.0))
    expected = piper(tmp_path / "corpus", tmp_path / "cache", rate)
    assert_same(ours(tmp_path / "corpus", tmp_path / "prepared", rate), expected)


def test_several_speakers(tmp_path: Path):
    lines = ["a|ann|One.", "b|bob|Two.", "c|ann|Three."]
    write_corpus(tmp_path / "corpus", lines, dict.fromkeys("abc", 2.0))
    expected = piper(tmp_path / "corpus", tmp_path / "cache", RATE, speakers=2)
    dataset = ours(tmp_path / "corpus", tmp_path / "prepared", RATE)
    assert_same(dataset, expected)
    assert dataset.speaker_ids.tolist() == [0, 1, 0]


def test_real_speech(speech: Path, tmp_path: Path):
    expected = piper(speech, tmp_path / "cache", 22050)
    dataset = ours(speech, tmp_path / "prepared", 22050, workers=2)
    assert len(dataset) == 32
    assert_same(dataset, expected)


def test_real_speech_with_silence_around_it(speech: Path, tmp_path: Path):
    """Silero itself, with something to cut; 44.1 kHz to 22.05 kHz."""
    lines = (speech / "metadata.csv").read_text("utf-8").splitlines()[:4]
    write_corpus(tmp_path / "corpus", lines)
    spoken = 0.0
    for index, name in enumerate(line.partition("|")[0] for line in lines):
        audio, rate = soundfile.read(speech / "wavs" / f"{name}.wav", dtype="float32")
        hiss = np.random.default_rng(index).normal(0, 1e-4, rate * 6).astype(np.float32)
        padded = np.concatenate([hiss[: (index + 1) * rate], audio, hiss[: 2 * rate]])
        wide = audio_files.resample(padded, rate, 44100)
        soundfile.write(tmp_path / "corpus" / "wavs" / f"{name}.wav", wide, 44100)
        spoken += len(audio) / rate
    dataset = ours(tmp_path / "corpus", tmp_path / "prepared", 22050)
    assert_same(dataset, piper(tmp_path / "corpus", tmp_path / "cache", 22050))
    margins = len(lines) * 2 * audio_files.KEEP_SECONDS
    assert spoken - 1 < dataset.seconds < spoken + margins + 0.5
