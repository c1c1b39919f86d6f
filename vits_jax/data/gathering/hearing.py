"""What a recogniser of the user's says, and remembers to have said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax import json_lines
from vits_jax.data.corpora import audio_files
from vits_jax.errors import RunFailed, UserError
from vits_jax.plugins import function_at

Recogniser = Callable[[np.ndarray, int], Any]
"""Samples, float32 ``[samples]`` in [-1, 1], and their rate in hertz, to a text: what is said."""

_RATE = 16000  # hertz; what recognisers are made for


def one_line(text: str) -> str:
    """As a column of ``metadata.csv``, which has no quoting."""
    return " ".join(text.replace("|", " ").replace("\0", " ").split())


class Hearing:
    """A recogniser, and what it said before.

    Args:
        path: of the file that says so.
        where: ``package.module:function``.
    """

    def __init__(self, path: Path, where: str) -> None:
        self._function: Recogniser = function_at(where, "--recogniser")
        self._rate = getattr(self._function, "sample_rate", _RATE)
        low, high = audio_files.RATES
        if not isinstance(self._rate, int) or not low <= self._rate <= high:
            raise UserError(
                f"--recogniser {where}: sample_rate is {self._rate!r}, expected hertz from {low} "
                f"to {high}"
            )
        self._path, self._where = path, where
        self._known = {
            line["audio"]: line["text"]
            for line in json_lines.objects(path)
            if line.get("recogniser") == where
            and isinstance(line.get("audio"), str)
            and isinstance(line.get("text"), str)
        }
        self.vad = audio_files.make_vad()

    def __call__(self, samples: np.ndarray, rate: int, what: str) -> str:
        """What is said in int16 ``[samples]``, in one line; empty where it hears nothing.

        Raises:
            RunFailed: it failed at that.
            UserError: it gives no text.
        """
        digest = hashlib.sha256(f"{rate} ".encode() + samples.tobytes()).hexdigest()
        if digest in self._known:
            return self._known[digest]
        audio = audio_files.resample(samples.astype(np.float32) / 32768, rate, self._rate)
        try:
            text = self._function(audio.astype(np.float32), self._rate)
        except Exception as error:
            raise RunFailed(
                f"--recogniser {self._where} failed at {what}: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        if not isinstance(text, str):
            kind = type(text).__name__
            raise UserError(f"--recogniser {self._where} gave {kind} for {what}, expected a text")
        text = self._known[digest] = one_line(text)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = {"audio": digest, "recogniser": self._where, "text": text}
        # A line of its own, after one that a killed start may have left unfinished.
        head = json_lines.head(self._path)
        with self._path.open("ab") as file:
            file.write(head + json_lines.of(line))
        return text
