"""Time, memory and bytes of preparing a corpus (``benchmark prepare``).

The corpus is written for the purpose: clips of 3 to 9 seconds, a voice-like sound in noise, no
two the same. Linux only: memory is what ``/proc`` says of each process.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vits_jax.config import Config

_SECONDS = (3.0, 9.0)  # of a clip: six on average, as in LJ Speech
_INTERVAL = 0.2  # seconds between two looks at the processes


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Write the corpus, prepare it as the command does, and look at what came of it."""
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        corpus, prepared = Path(name) / "corpus", Path(name) / "prepared"
        speech = _write_corpus(corpus, args.hours * 3600, args.sample_rate)
        command = [sys.executable, "-m", "vits_jax.preprocess", f"--input-dir={corpus}"]
        command += [f"--output-dir={prepared}", f"--sample-rate={args.sample_rate}"]
        command += ["--language=en-us", "--phoneme-type=text", "--dataset-format=ljspeech"]
        command += ["--no-trim"] if args.no_trim else []
        command += [f"--max-workers={args.max_workers}"] if args.max_workers else []
        seconds, memory = _watch(command)
        files = [path for path in prepared.rglob("*") if path.is_file()]
        recordings = sum(1 for _ in (prepared / "dataset.jsonl").open("rb"))
        result = {
            "hours": speech / 3600,
            "recordings": recordings,
            "trimmed": not args.no_trim,
            "prepare_seconds": seconds,
            "peer_prepare_seconds": None,
            "speech_per_second": speech / seconds,
            "main_peak_bytes": memory[0],
            "worker_peak_bytes": memory[1],
            "together_peak_bytes": memory[2],
            "wav_bytes": sum(path.stat().st_size for path in corpus.rglob("*.wav")),
            "prepared_bytes": sum(path.stat().st_size for path in files),
            "shards": sum("array_record" in path.name for path in files),
        }
        if args.train:
            shutil.rmtree(corpus)
            command = [sys.executable, "-m", "vits_jax.train", f"--dataset-dir={prepared}"]
            command += [f"--run-dir={name}/run", "--quality=demo", "--batch-size=2"]
            seconds, memory = _watch([*command, "--fast-dev-run=2"])
            result |= {"train_seconds": seconds, "train_peak_bytes": memory[0]}
        return result


def _write_corpus(directory: Path, seconds: float, rate: int) -> float:
    """An ljspeech corpus; returns the seconds that it holds."""
    (directory / "wavs").mkdir(parents=True)
    rng = np.random.default_rng(0)
    voice = voice_like(rng, 60.0, rate)
    noise = rng.normal(0.0, 200.0, 2 * len(voice)).astype(np.int16)
    written = 0.0
    with (directory / "metadata.csv").open("w", encoding="utf-8") as metadata:
        for number in range(int(seconds / np.mean(_SECONDS))):
            length = int(rng.uniform(*_SECONDS) * rate)
            begin, other = (int(rng.integers(len(a) - length)) for a in (voice, noise))
            clip = voice[begin : begin + length] + noise[other : other + length]
            soundfile.write(directory / "wavs" / f"{number:06d}.wav", clip, rate)
            words = rng.choice(["speech", "is", "a", "sound", "that", "means"], length // 9000)
            metadata.write(f"{number:06d}|{' '.join(words)} {number}.\n")
            written += length / rate
    return written


def voice_like(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """int16: harmonics of a wandering pitch, four syllables a second."""
    t = np.arange(int(seconds * rate)) / rate
    pitch = 120.0 + 25.0 * np.interp(t, np.arange(seconds + 1), rng.normal(size=int(seconds) + 1))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    sound = np.sum([np.sin(n * phase) / n for n in range(1, 25)], axis=0)
    loudness = np.clip(np.sin(2 * np.pi * 4.0 * t) + 0.6, 0.0, 1.0)
    return (4000.0 * sound * loudness).astype(np.int16)


def _watch(command: Sequence[str]) -> tuple[float, tuple[int, int, int]]:
    """Run a command; seconds, and the peak bytes of its process, of the largest of the
    processes that it started, and of all together."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    main, workers, together = 0, 0, 0
    while process.poll() is None:
        sizes = [_memory(process.pid), *map(_memory, _children(process.pid))]
        main = max(main, sizes[0][1])
        workers = max([workers, *(peak for _, peak in sizes[1:])])
        together = max(together, sum(now for now, _ in sizes))
        time.sleep(_INTERVAL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, (main, workers, together)


def _memory(process: int) -> tuple[int, int]:
    """Bytes of memory that a process has, and had at most; zeros when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return int(sizes.get("VmRSS", 0)) * 1024, int(sizes.get("VmHWM", 0)) * 1024


def _children(process: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []
