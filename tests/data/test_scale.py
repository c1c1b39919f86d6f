"""Many utterances, of which only the metadata exists; and more audio than memory may hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.tones import HOP, MIN_SAMPLES, RATE, config, entry, write_corpus, write_prepared
from vits_jax.data.manifest import load_dataset
from vits_jax.data.storage import store as stores

# Half a million in 500 MB, of which the interpreter and its libraries take 60.
BYTES_PER_UTTERANCE = (500e6 - 60e6) / 500_000

PLAN = """
import resource, sys
import numpy as np
from vits_jax.data.batching.batches import make_plan
from vits_jax.data.manifest import load_dataset
from vits_jax.data.split import split

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux

np.quantile(np.arange(9.0), 0.5, method="weibull")  # what numpy loads when it is first asked
before = peak()
dataset = load_dataset(sys.argv[1], hop_length=256, min_samples=385)
parts = split(dataset.keys, 0.1, 5)
plan = make_plan(dataset, parts.train, batch_size=32, hop_length=256, segment_frames=32,
                 num_buckets=4, seed=1)
rows = plan.epoch(0).rows
print(len(dataset), len(np.unique(rows)) == len(parts.train), peak() - before)
"""


def write_metadata(directory: Path, count: int) -> None:
    """A prepared directory without its audio: 150 ids and 6 seconds an utterance."""
    random = np.random.default_rng(0)
    ids = random.integers(40, 260, count)
    store = directory / f"audio-{'a' * 16}"
    store.mkdir()
    samples = np.maximum(ids * 600, random.normal(6, 2, count) * 22050).astype(np.int32)
    np.save(store / "samples.npy", samples)
    np.save(store / "facts.npy", np.zeros(count, stores.FACTS))
    np.save(store / "digests.npy", np.zeros(0, stores.DIGEST))
    index = {"format_version": stores.FORMAT_VERSION, "sample_rate": 22050, "settings": ""}
    index |= {"files": {}, "outcomes": list(range(count))}
    (store / "index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config(audio={"sample_rate": 22050})))
    with (directory / "dataset.jsonl").open("w") as file:
        for i, length in enumerate(ids.tolist()):
            line = entry(i, phoneme_ids=[1, *[3 + i % 200] * (length - 2), 2])
            line |= {"audio_norm_path": f"{store.name}#{i}", "text": f"{i} " + "x" * (length // 2)}
            file.write(json.dumps(line) + "\n")


def test_half_a_million_utterances_are_planned_in_500_mb(tmp_path: Path):
    count = 50_000  # a tenth of them, and of the memory
    write_metadata(tmp_path, count)
    done = subprocess.run(
        [sys.executable, "-c", PLAN, str(tmp_path)], capture_output=True, text=True, check=True
    )
    length, each_once, taken = done.stdout.split()
    assert (int(length), each_once) == (count, "True")
    assert float(taken) / count < BYTES_PER_UTTERANCE


# The first release gave all records to TFDS, which beyond a limit wanted TensorFlow. Here the
# limits, its and ours, are a hundredth of what is written.
BEYOND = """
import sys
from importlib.machinery import PathFinder
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, *more):  # TensorFlow is not there, even where it is
        return None if name.split(".")[0] == "tensorflow" else super().find_spec(name, *more)
sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
from tensorflow_datasets.core import shuffle
from vits_jax.data.storage import shards
from vits_jax.data.manifest import load_dataset
from vits_jax.commands.preprocess import main
shuffle.MAX_MEM_BUFFER_SIZE = shards.SHARD_BYTES = int(sys.argv[1])
if sys.argv[2] == "pack":
    sys.exit(len(load_dataset(sys.argv[3], hop_length=256, min_samples=385)) != 100)
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("how", ["prepare", "pack"])
def test_a_corpus_beyond_every_limit(tmp_path: Path, how: str):
    rng = np.random.default_rng(0)
    audio = [rng.integers(-3000, 3000, 8000 + 50 * i).astype(np.int16) for i in range(100)]
    limit = sum(2 * len(samples) for samples in audio) // 100
    out = tmp_path / "out"
    if how == "prepare":
        corpus = write_corpus(tmp_path / "corpus", [f"{i}|Hi." for i in range(100)])
        arguments = [f"--input-dir={corpus}", f"--output-dir={out}", f"--sample-rate={RATE}"]
        arguments += ["--language=en-us", "--phoneme-type=text", "--dataset-format=ljspeech"]
        arguments += ["--no-trim", "--max-workers=1"]
    else:
        corpus = write_prepared(out, [entry(i) for i in range(100)], audio=False)
        arguments = [str(out)]
    for i, samples in enumerate(audio):
        soundfile.write((corpus / "wavs" if how == "prepare" else out) / f"{i}.wav", samples, RATE)
    command = [sys.executable, "-c", BEYOND, str(limit), how, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    dataset = load_dataset(out, hop_length=HOP, min_samples=MIN_SAMPLES)
    assert len(list(out.rglob("*.array_record*"))) > 70
    for i, samples in enumerate(audio):
        np.testing.assert_array_equal(dataset.audio(i), samples)


GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np
from vits_jax.data.storage import building
from vits_jax.data.storage import shards
from vits_jax.data.corpora.audio_files import Recording
shards.SHARD_BYTES = 8 << 20
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
noise = np.random.default_rng(0).integers(-3000, 3000, 1 << 20).astype(np.int16)
peaks = []
def recordings(start):
    for number in range(100):
        peaks.append(peak())
        yield Recording(np.roll(noise, number), 22050, 0, 1.0)
building.build(Path(sys.argv[1], "audio-" + "a" * 16), 22050, recordings, "settings")
print(peak() - peaks[20])
"""


def test_the_memory_of_writing_does_not_grow_with_the_corpus(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True, check=True
    )
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.array_record*"))
    assert written > 150e6
    assert int(done.stdout) < 20e6
