"""How fast batches come: from storage and from device memory (``benchmark input``).

Without a prepared directory, one is written: noisy tones in lengths like LJ Speech's. Padding is
then that of 13,100 such lengths, of which only so many are written as were asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vits_jax.benchmarks.preparing import voice_like
from vits_jax.config import Config
from vits_jax.data.batching.batches import Plan, make_plan
from vits_jax.data.corpora.audio_files import Recording
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.data.storage import store as stores
from vits_jax.data.storage.building import build
from vits_jax.training.feeding import Feeder, corpus_on_devices
from vits_jax.training.mesh import make_mesh

_RATE, _SYMBOLS = 22050, 256
_LIKE_LJ_SPEECH = 13_100  # clips
_ROUNDS = 3


class LengthsOfSpeech(NamedTuple):
    """See `vits_jax.data.batching.batches.Lengths`."""

    samples: np.ndarray
    id_lengths: np.ndarray


def like_lj_speech(seed: int = 0) -> LengthsOfSpeech:
    """13,100 clips of 1.1 to 10.1 s, 6.6 on average, at 22,050 Hz.

    32 phoneme ids a second, which differ by a tenth: the rate of LJ Speech's first 32 clips.
    """
    random = np.random.default_rng(seed)
    seconds = 1.1 + 9 * random.beta(2.2, 1.4, _LIKE_LJ_SPEECH)
    ids = np.maximum(3, seconds * random.normal(32.2, 3.1, _LIKE_LJ_SPEECH))
    return LengthsOfSpeech((_RATE * seconds).astype(np.int32), ids.astype(np.int32))


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Batches as a run gets them: as fast as they come, and beside a step of a given time."""
    with contextlib.ExitStack() as stack:
        directory, lengths = args.dataset_dir, None
        if directory is None:
            lengths = like_lj_speech()
            temporary = stack.enter_context(tempfile.TemporaryDirectory(dir=args.directory))
            directory = write_speech(Path(temporary), lengths, 3600 * args.hours)
        dataset = load_dataset(
            directory, hop_length=config.audio.hop_length, min_samples=config.audio.min_samples
        )
        plan = _plan(dataset, len(dataset), args, config)
        planned = plan if lengths is None else _plan(lengths, _LIKE_LJ_SPEECH, args, config)
        mesh = make_mesh()
        feeders = {
            name: Feeder(config.replaced({"data_on_device": kept}), mesh, dataset)
            for name, kept in (("", False), ("on_device_", True))
        }
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in feeders}
        for _ in range(_ROUNDS):
            for name, feeder in feeders.items():
                figures[name].append(_measured(feeder, plan, dataset, args))
        kept = config.replaced({"data_on_device": True})
        result: dict[str, Any] = {
            "device": mesh.devices.flat[0].device_kind,
            "devices": mesh.size,
            "synthetic": lengths is not None,
            "utterances": len(dataset),
            "speech_hours": dataset.seconds / 3600,
            "batch_size": args.batch_size,
            "num_buckets": len(planned.used_buckets),
            "padding": planned.padding,
            "phoneme_padding": planned.phoneme_padding,
            "step_seconds": args.step_ms / 1000,
            "corpus_bytes": corpus_on_devices(kept, dataset),
        }
        for name, rounds in figures.items():
            for figure in rounds[0]:
                result[name + figure] = statistics.median(r[figure] for r in rounds)
        return result


def _plan(lengths: Any, count: int, args: argparse.Namespace, config: Config) -> Plan:
    return make_plan(
        lengths,
        np.arange(count),
        batch_size=args.batch_size,
        hop_length=config.audio.hop_length,
        segment_frames=config.segment_frames,
        num_buckets=args.num_buckets,
        seed=0,
    )


def _measured(
    feeder: Feeder, plan: Plan, dataset: Dataset, args: argparse.Namespace
) -> dict[str, float]:
    """One round. The first epoch's shapes are compiled, and threads started, before it."""
    with feeder.ahead(plan, count=plan.steps_per_epoch) as warm:
        for _, batch in warm:
            jax.block_until_ready(batch)
    size = 0
    with feeder.ahead(plan, count=args.batches + 1) as feed:
        next(feed)
        start = time.perf_counter()
        for _, batch in feed:
            jax.block_until_ready(batch)
            size += sum(array.nbytes for array in batch.values())
        seconds = time.perf_counter() - start
    utterances, speech = _counted(plan, dataset, args.batches)
    with feeder.ahead(plan, count=args.batches + 1) as feed:
        next(feed)
        start, waited = time.perf_counter(), 0.0
        for _ in feed:
            waited += feed.waited
            time.sleep(args.step_ms / 1000)  # the device computes, and this thread does not
        whole = time.perf_counter() - start
    return {
        "utterances_per_second": utterances / seconds,
        "speech_seconds_per_second": speech / seconds,
        "bytes_per_second": size / seconds,
        "waiting_share": waited / whole,
    }


def _counted(plan: Plan, dataset: Dataset, count: int) -> tuple[int, float]:
    """Utterances, and seconds of speech, in so many batches after the first one."""
    utterances, speech = 0, 0.0
    for number in range(1, count + 1):
        rows = plan.epoch(number // plan.steps_per_epoch).used(number % plan.steps_per_epoch)
        utterances, speech = utterances + len(rows), speech + dataset.seconds_of(rows)
    return utterances, speech


def write_speech(directory: Path, lengths: LengthsOfSpeech, seconds: float) -> Path:
    """A prepared directory of the first of these lengths, so many seconds, at least one clip.

    Args:
        directory: is there, and is returned.
    """
    random = np.random.default_rng(0)
    voice = voice_like(random, 60.0, _RATE)
    noise = random.normal(0.0, 200.0, 2 * len(voice)).astype(np.int16)
    ends = np.cumsum(lengths.samples.astype(np.int64))
    count = max(1, int(np.searchsorted(ends, seconds * _RATE)))

    def recordings(first: int) -> Iterator[Recording]:
        for samples in itertools.islice(lengths.samples.tolist(), first, count):
            begin, other = (int(random.integers(len(a) - samples)) for a in (voice, noise))
            audio = voice[begin : begin + samples] + noise[other : other + samples]
            yield Recording(audio, _RATE, 0, float("nan"))

    target = stores.store_path(directory, stores.fingerprint({"benchmark": "input"}, [count]))
    build(target, _RATE, recordings, settings="benchmark")
    voice_config = {
        "audio": {"sample_rate": _RATE},
        "num_symbols": _SYMBOLS,
        "num_speakers": 1,
        "phoneme_id_map": {"_": [0]},
    }
    (directory / "config.json").write_text(json.dumps(voice_config), encoding="utf-8")
    store = stores.open_store(target)
    with (directory / "dataset.jsonl").open("w", encoding="utf-8") as file:
        for number, ids in enumerate(lengths.id_lengths[:count].tolist()):
            entry = {
                "phoneme_ids": random.integers(1, _SYMBOLS, ids).tolist(),
                "audio_norm_path": stores.record_name(store, number),
            }
            file.write(json.dumps(entry) + "\n")
    return directory
