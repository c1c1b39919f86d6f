"""Speak the demo corpus with espeak-ng: every row of its metadata.csv into wav/.

    python tools/make_demo_corpus.py [--corpus examples/demo]

The rows are written by hand; the audio is made here, 16,000 Hz, mono, 16 bits, FLAC. The same
rows give the same samples: espeak-ng is the one in the wheel `espeakng-loader`, its random
numbers are seeded, and each clip has a process of its own, because the synthesiser carries the
phase of its voice over from one utterance to the next.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000
VOICES = {"clara": "en-us+f4", "oscar": "en-us+m3"}
"""Speaker in metadata.csv to voice of espeak-ng."""

# From espeak-ng's speak_lib.h
_SYNCHRONOUS, _CHARACTERS, _UTF8 = 2, 1, 1


def speak(text: str, speaker: str) -> np.ndarray:
    """`text` in the voice of `speaker`: int16 ``[samples]`` at `SAMPLE_RATE`.

    Call it once per process, or the second result depends on the first.

    Raises:
        RuntimeError: espeak-ng refuses the voice or the text, or is silent.
    """
    import espeakng_loader  # the wheel carries the library and its data

    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = espeak.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"espeak_Initialize: {rate}")
    chunks: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def collect(samples: Any, count: int, _events: Any) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    espeak.espeak_SetSynthCallback(collect)
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(1))
    encoded = text.encode()
    for call, status in (
        ("SetVoiceByName", espeak.espeak_SetVoiceByName(VOICES[speaker].encode())),
        (
            "Synth",
            espeak.espeak_Synth(encoded, len(encoded) + 1, 0, _CHARACTERS, 0, _UTF8, None, None),
        ),
        ("Synchronize", espeak.espeak_Synchronize()),
    ):
        if status != 0:
            raise RuntimeError(f"espeak_{call} gave {status} for {speaker}: {text}")
    if not chunks:
        raise RuntimeError(f"no sound for {speaker}: {text}")
    return soxr.resample(np.concatenate(chunks), rate, SAMPLE_RATE)


def read_rows(corpus: Path) -> list[tuple[str, str, str]]:
    """``(file name, speaker, text)`` of each row of `corpus`/metadata.csv."""
    with (corpus / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return [
            (name, speaker, text)
            for name, speaker, text in csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE)
        ]


def speak_all(rows: list[tuple[str, str, str]]) -> list[np.ndarray]:
    """`speak` for each of `rows`, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(speak, [row[2] for row in rows], [row[1] for row in rows]))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Speak the demo corpus with espeak-ng.")
    parser.add_argument("--corpus", type=Path, default=Path("examples/demo"))
    corpus: Path = parser.parse_args().corpus
    rows = read_rows(corpus)
    (corpus / "wav").mkdir(exist_ok=True)
    seconds = 0.0
    for (name, _, _), samples in zip(rows, speak_all(rows), strict=True):
        soundfile.write(corpus / "wav" / name, samples, SAMPLE_RATE, subtype="PCM_16")
        seconds += len(samples) / SAMPLE_RATE
    size = sum(path.stat().st_size for path in (corpus / "wav").iterdir())
    print(f"{len(rows)} clips, {seconds:.0f} s, {size / 1e6:.1f} MB in {corpus / 'wav'}")


if __name__ == "__main__":
    main()
