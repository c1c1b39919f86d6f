"""A corpus of 200 rows in which 40 faults are planted, each known by its row."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import soundfile

from tests.data.tones import tone

RATE = 16000
ROWS = 200
WARNED = {"clipped", "duplicate", "odd sample rate", "odd speaking rate", "unknown symbols"}
QUOTE = "quotes are kept as text"  # said of a row that is used all the same

# kind: (how it is said, rows)
FAULTS = {
    "no audio": ("no audio: no such file", 4),
    "symlink loop": ("no audio: no such file", 2),
    "folder": ("no audio: no such file", 1),
    "no bytes": ("empty: .* has no bytes", 2),
    "no samples": ("empty: .* holds no samples", 1),
    "garbage": ("undecodable: .*Format not recognised", 2),
    "cut off": ("undecodable: ", 1),
    "impossible rate": ("wrong rate: .* has 7 samples per second", 1),
    "silent": ("silent: all 16000 samples", 3),
    "too short": ("too short: 300 samples, at least 385", 2),
    "too long": ("too long: 61.0 seconds, at most 60", 1),
    "not finite": ("not finite: .* NaN or infinite", 1),
    "many ids": ("more phoneme ids than frames: 203 ids, 62 frames", 2),
    "no text": ("no text: the last column is empty", 1),
    "one column": ("one column: expected", 1),
    "no id": ("no id: the first column is empty", 1),
    "not UTF-8": ("not UTF-8: byte", 2),
    "NUL": ("holds a NUL byte", 2),
    "clipped": ("clipped: [0-9]+ samples in runs at full scale", 2),
    "duplicate": (r"duplicate: the same recording as metadata\.csv:1$", 2),
    "odd sample rate": ("odd sample rate: 8000 samples per second, below", 1),
    "odd speaking rate": ("odd speaking rate: 28.0 characters a second", 1),
    "unknown symbols": ("unknown symbols: '€', left out", 3),
    "stray quote": (QUOTE, 1),
}


def plant(directory: Path) -> dict[int, str]:
    """Write the corpus; returns what is planted, by row."""
    wavs = directory / "wavs"
    wavs.mkdir(parents=True)
    kinds = [kind for kind, (_, count) in FAULTS.items() for _ in range(count)]
    assert len(kinds) == 40
    rows = np.random.default_rng(0).permutation(np.arange(2, ROWS + 1))[: len(kinds)]
    planted = dict(zip(rows.tolist(), kinds, strict=True))
    lines = [_row(wavs, number, planted.get(number)) for number in range(1, ROWS + 1)]
    ends = [b"\r\n" if number % 3 else b"\n" for number in range(1, ROWS + 1)]
    joined = b"".join(line + end for line, end in zip(lines, ends, strict=True))
    (directory / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + joined)
    return planted


def said(kind: str) -> re.Pattern[str]:
    """How a fault is named."""
    return re.compile(FAULTS[kind][0])


def _row(wavs: Path, number: int, kind: str | None) -> bytes:
    """Write a row's recording; returns its line."""
    name = f"clip{number:03d}"
    path = wavs / f"{name}.wav"
    text = "abcdefghijkl"[: 8 + number % 5]  # 8 to 12 characters a second
    audio = tone(1.0, RATE, 500 + 10 * number)
    rate = RATE
    if kind == "clipped":
        audio = np.clip(audio * 4, -1, 1)
    elif kind == "silent":
        audio = np.zeros(RATE, np.float32)
    elif kind == "too short":
        audio = audio[:300]
    elif kind == "too long":
        audio = tone(61.0, RATE, 500)
    elif kind == "not finite":
        audio[100] = np.nan
    elif kind == "no samples":
        audio = audio[:0]
    elif kind == "odd sample rate":
        rate, audio = 8000, tone(1.0, 8000, 700)
    elif kind == "duplicate":
        audio = tone(1.0, RATE, 510)
    elif kind == "many ids":
        text = "a" * 100
    elif kind == "odd speaking rate":
        text = "a" * 28
    elif kind == "unknown symbols":
        text += "€"
    elif kind == "stray quote":
        text = '"' + text
    soundfile.write(path, audio, rate, "FLOAT" if kind == "not finite" else "PCM_16")
    line = f"{name}|{text}".encode()
    if kind in ("no audio", "symlink loop", "folder"):
        path.unlink()
        if kind == "symlink loop":
            path.symlink_to(path)
        elif kind == "folder":
            path.mkdir()
    elif kind == "no bytes":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(b"this is no audio " * 50)
    elif kind == "cut off":
        path.unlink()
        flac = path.with_suffix(".flac")
        soundfile.write(flac, np.random.default_rng(0).uniform(-0.5, 0.5, RATE), RATE)
        flac.write_bytes(flac.read_bytes()[:9000])
    elif kind == "impossible rate":
        content = bytearray(path.read_bytes())
        content[24:28] = struct.pack("<I", 7)
        path.write_bytes(content)
    elif kind == "no text":
        line = f"{name}| ".encode()
    elif kind == "one column":
        line = name.encode()
    elif kind == "no id":
        line = f"|{text}".encode()
    elif kind == "not UTF-8":
        line += "é".encode("latin-1")
    elif kind == "NUL":
        line += b"\0"
    return line
