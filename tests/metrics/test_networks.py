"""The networks of others, run here, against their own packages' answers."""

from __future__ import annotations

import importlib
import importlib.util
import io
import pickle
import sys
import types
from pathlib import Path

import librosa
import numpy as np
import pytest
import soxr
import torch

from tests.metrics.voices import glottal
from vits_jax.metrics import naturalness, speaker, torch_file
from vits_jax.metrics.clips import Clip
from vits_jax.metrics.spectra import mel_filters, mel_power

RATE = 16000


@pytest.mark.parametrize(("n_fft", "n_mels"), [(400, 40), (321, 120)])
def test_mel_spectra_are_librosas(n_fft: int, n_mels: int):
    audio = np.random.default_rng(0).normal(size=RATE // 2).astype(np.float32)
    theirs = librosa.feature.melspectrogram(
        y=audio, sr=RATE, n_fft=n_fft, hop_length=160, n_mels=n_mels
    )
    np.testing.assert_allclose(mel_power(audio, RATE, n_fft, 160, n_mels), theirs.T, rtol=1e-4)


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_mel_filters_are_slaneys(rate: int):
    theirs = librosa.filters.mel(sr=rate, n_fft=1024, n_mels=80)
    np.testing.assert_allclose(mel_filters(rate, 1024, 80), theirs, atol=1e-7)


@pytest.mark.parametrize("seconds", [2.5, 10.4])
def test_dnsmos_is_the_packages_own(seconds: float):
    """Shorter than what the network hears at once, and two windows of it."""
    dnsmos = pytest.importorskip("speechmos.dnsmos")
    audio = glottal(seconds, RATE, noise=0.01)
    theirs = dnsmos.run(audio, RATE)
    ours = naturalness.opinion(Clip(audio, RATE))
    assert ours.overall == pytest.approx(float(theirs["ovrl_mos"]), abs=1e-3)
    assert ours.quality == pytest.approx(float(theirs["p808_mos"]), abs=1e-3)


@pytest.fixture(scope="module")
def resemblyzer() -> types.ModuleType:
    """The package, without its voice activity detection and what that needs."""
    if importlib.util.find_spec("resemblyzer") is None:
        pytest.skip("Resemblyzer is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
        morphology = types.ModuleType("scipy.ndimage.morphology")
        morphology.binary_dilation = None  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "scipy.ndimage.morphology", morphology)
        return importlib.import_module("resemblyzer")


@pytest.mark.parametrize("seconds", [0.7, 1.7, 3.3])
def test_embeddings_are_resemblyzers(resemblyzer: types.ModuleType, seconds: float):
    """Less than one part, one with a little more, and several; quiet, so made louder."""
    audio = 0.02 * glottal(seconds, RATE, noise=0.01)
    theirs_louder = resemblyzer.normalize_volume(audio, -30, increase_only=True)
    np.testing.assert_allclose(speaker.louder(audio), theirs_louder, rtol=1e-5)
    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
    theirs = encoder.embed_utterance(theirs_louder)
    ours = speaker.embedding(Clip(audio, RATE))
    assert ours is not None
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.abs(theirs).max() > 0.1  # so that the tolerance means something


def test_every_weight_is_torchs(resemblyzer: types.ModuleType):
    path = Path(resemblyzer.__path__[0]) / "pretrained.pt"
    theirs = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    ours = torch_file.read_tensors(path.read_bytes(), "model_state")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name].numpy())


def _saved(values: object) -> bytes:
    file = io.BytesIO()
    torch.save(values, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


class _Evil:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def test_a_torch_file_that_would_run_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for content in (_saved({"model_state": {"x": _Evil()}}), pickle.dumps(_Evil(), 2)):
        with pytest.raises(ValueError, match="nothing in it was run|not as PyTorch|not a file"):
            torch_file.read_tensors(content, "model_state")
    assert not (tmp_path / "touched").exists()


def test_a_torch_file_is_read_or_refused_wherever_it_is_cut_or_changed():
    content = _saved({"model_state": {"x": torch.arange(6.0).reshape(2, 3), "epoch": 3}})
    (array,) = torch_file.read_tensors(content, "model_state").values()
    np.testing.assert_array_equal(array, np.arange(6.0).reshape(2, 3))
    with pytest.raises(ValueError, match="'other'"):
        torch_file.read_tensors(content, "other")
    for end in range(0, len(content), 7):
        with pytest.raises(ValueError):
            torch_file.read_tensors(content[:end], "model_state")
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(content)
        broken[random.integers(len(broken))] = random.integers(256)
        try:
            torch_file.read_tensors(bytes(broken), "model_state")
        except ValueError:
            continue


def test_tensors_of_other_numbers_and_orders_are_refused():
    for tensor in (torch.zeros(2, dtype=torch.float64), torch.zeros(2, 3).T):
        with pytest.raises(ValueError, match="float32|strides"):
            torch_file.read_tensors(_saved({"model_state": {"x": tensor}}), "model_state")


def test_silence_has_no_embedding():
    assert speaker.embedding(Clip(np.zeros(RATE, np.float32), RATE)) is None


def test_a_rate_that_is_not_the_networks_is_resampled():
    high = glottal(1.0, 48000)
    low = soxr.resample(high, 48000, RATE, quality="HQ")
    one, other = speaker.embedding(Clip(high, 48000)), speaker.embedding(Clip(low, RATE))
    assert one is not None and other is not None
    np.testing.assert_allclose(one, other, atol=1e-5)
