"""Directories that Piper's old trainer wrote: `.pt` audio, read without running code from it."""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.tones import HOP, MIN_SAMPLES, RATE, config, entry, tone, write_prepared
from vits_jax.data.corpora import torch_audio
from vits_jax.data.corpora.audio_files import AudioFault
from vits_jax.data.manifest import load_dataset
from vits_jax.errors import UserError

torch = pytest.importorskip("torch", reason="needs the extra [torch]")


def write_piper(directory: Path, count: int = 3, flat: bool = False) -> Path:
    """As Piper's preprocess leaves it: absolute paths to `.pt` files in `cache/<rate>`."""
    cache = directory / "cache" / str(RATE)
    cache.mkdir(parents=True)
    entries = []
    for i in range(count):
        audio = torch.FloatTensor(tone(0.5, hertz=1000 * (i + 1)))
        torch.save(audio if flat else audio.unsqueeze(0), cache / f"{i}.pt")
        (cache / f"{i}.spec.pt").write_bytes(b"never looked at")
        paths = {f"audio_{kind}_path": str(cache / f"{i}{end}.pt")
                 for kind, end in (("norm", ""), ("spec", ".spec"))}  # fmt: skip
        entries.append(entry(i, **paths))
    return write_prepared(directory, entries)


def load(directory: Path):
    return load_dataset(directory, hop_length=HOP, min_samples=MIN_SAMPLES)


@pytest.mark.parametrize("flat", [False, True])
def test_a_directory_of_pipers(tmp_path: Path, flat: bool):
    dataset = load(write_piper(tmp_path, flat=flat))
    assert len(dataset) == 3
    for i in range(3):
        expected = np.rint(tone(0.5, hertz=1000 * (i + 1)).astype(np.float64) * 32768)
        np.testing.assert_array_equal(dataset.audio(i), expected)


def test_a_directory_that_was_moved(tmp_path: Path):
    write_piper(tmp_path / "there")
    (tmp_path / "there").rename(tmp_path / "here")
    assert len(load(tmp_path / "here")) == 3


def test_another_recording_of_the_same_name_is_not_taken(tmp_path: Path):
    write_prepared(tmp_path, [entry(0, audio_norm_path="/gone/0.wav")], audio=False)
    write_prepared(tmp_path / "other", [entry(0)])
    (tmp_path / "other" / "0.wav").rename(tmp_path / "0.wav")
    with pytest.raises(UserError, match="audio_norm_path '/gone/0.wav' does not exist"):
        load(tmp_path)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["torch.save", "pickle", "legacy"])
def test_no_code_of_a_file_is_run(tmp_path: Path, how: str):
    trap = tmp_path / "trap"
    path = tmp_path / "a.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(trap)))
    else:
        torch.save(Malicious(trap), path, _use_new_zipfile_serialization=how == "torch.save")
    with pytest.raises(AudioFault, match="undecodable: no torch tensor"):
        torch_audio.read(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Malicious(trap)))  # the trap works
    assert trap.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], "list, expected a torch tensor"),
        ({"audio": torch.zeros(3)}, "dict, expected a torch tensor"),
        (torch.zeros(9).bfloat16(), "torch.bfloat16 torch.strided, expected a plain tensor"),
        (torch.eye(9).to_sparse(), "torch.float32 torch.sparse_coo, expected a plain tensor"),
    ],
)
def test_what_is_no_plain_tensor(tmp_path: Path, value: object, message: str):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(AudioFault, match=message):
        torch_audio.read(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"PK", b"garbage" * 100])
def test_broken_files_are_named_with_their_line(tmp_path: Path, content: bytes):
    write_piper(tmp_path)
    broken = tmp_path / "cache" / str(RATE) / "1.pt"
    broken.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'dataset.jsonl'}:2: audio_norm_path {broken}")
    assert "\n" not in str(caught.value)


def test_not_finite(tmp_path: Path):
    write_piper(tmp_path, count=1)
    torch.save(torch.full((1, 900), math.nan), tmp_path / "cache" / str(RATE) / "0.pt")
    with pytest.raises(UserError, match="not finite: NaN or infinite samples"):
        load(tmp_path)


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_piper(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install 'vits_jax\[torch\]'"):
        load(tmp_path)


def test_stored_bytes_are_a_fifth_of_pipers(tmp_path: Path):
    """Piper keeps float audio and a spectrogram of 513 bins; the store keeps 16-bit audio."""
    seconds = 30
    cache = tmp_path / "cache" / str(RATE)
    cache.mkdir(parents=True)
    audio = np.random.default_rng(0).normal(0, 0.1, (1, seconds * RATE)).astype(np.float32)
    torch.save(torch.from_numpy(audio), cache / "0.pt")
    torch.save(torch.zeros(513, seconds * RATE // 256), cache / "0.spec.pt")
    piper = sum(path.stat().st_size for path in cache.iterdir())
    write_prepared(tmp_path, [entry(0, audio_norm_path=str(cache / "0.pt"))])
    store = load(tmp_path).store.directory
    ours = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert ours * 5 <= piper
    assert json.loads((tmp_path / "config.json").read_text()) == config()
