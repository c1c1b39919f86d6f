"""Many utterances, of which only the metadata exists."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from vits_jax.data import store as stores

from .corpora import config, entry

# Half a million in 500 MB, of which the interpreter and its libraries take 60.
BYTES_PER_UTTERANCE = (500e6 - 60e6) / 500_000

PLAN = """
import resource, sys
import numpy as np
from vits_jax.data.batches import make_plan
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
