"""``report.html`` of a run: what it measured, said and drew so far, on one page to show others."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vits_jax.checkpoints.store import DIRECTORY as CHECKPOINTS
from vits_jax.checkpoints.store import step_directories
from vits_jax.config import Config
from vits_jax.data.manifest import Dataset
from vits_jax.metrics import METRICS
from vits_jax.metrics.verdict import Verdict
from vits_jax.pages.curves import curve
from vits_jax.pages.page import render, sound, write
from vits_jax.training import journal, samples

NAME = "report.html"
_GAP = 1800.0  # seconds between two lines of the journal that are a pause, not training
_MOST_STEPS = 12  # with players
_SECONDS = 30.0  # of a player

_CURVES = (
    ("mel loss", {"training": "train/mel", "held out": "validation/mel"}),
    ("KL divergence", {"training": "train/kl", "held out": "validation/kl"}),
    ("duration loss", {"training": "train/dur", "held out": "validation/dur"}),
    ("adversarial losses", {"generator": "train/gen", "discriminators": "train/disc"}),
    ("what other texts cost, share of KL", {"texts": "validation/of_texts"}),
    ("gradient norms", {"generator": "train/grad_norm_g", "discriminators": "train/grad_norm_d"}),
    ("seconds of speech a second", {"speed": "speed/speech_seconds_per_second"}),
)
_LEVELS = {
    "loudness, dB": ("examples/level", "examples/recorded_level"),
    "length of speech, times the recordings'": ("examples/length", None),
    "silence, share": ("examples/silence", "examples/recorded_silence"),
    "how far two speakers are apart, nepers": ("examples/apart", "examples/recorded_apart"),
}


class RunPage:
    """The page of one run.

    Args:
        run_dir: the run's directory.
        config: of the run.
        dataset: its data.
        rows: of the dataset, the test examples.
        end: the step at which it ends; infinite: it does not.
    """

    def __init__(
        self, run_dir: Path, config: Config, dataset: Dataset, rows: np.ndarray, end: float
    ):
        self._run_dir, self._config, self._dataset = run_dir, config, dataset
        self._rows, self._end = rows, end

    def write(self, step: int, verdict: Verdict) -> None:
        """Write it anew.

        Raises:
            OSError: it cannot be written.
        """
        lines = journal.read(self._run_dir)
        series = functools.partial(journal.series, lines)
        steps = samples.steps(self._run_dir)[-_MOST_STEPS:]
        checkpoints = {int(path.name) for path in step_directories(self._run_dir / CHECKPOINTS)}
        curves = [
            curve(title, {label: series(name) for label, name in shown.items()})
            for title, shown in _CURVES
        ]
        for title, (own, recorded) in _LEVELS.items():
            found = series(recorded) if recorded else [(0, 1.0)]
            levels = {"recordings": found[-1][1]} if found else {}
            curves.append(curve(title, {"spoken": series(own)}, levels))
        for metric in METRICS:
            theirs = series(f"recordings/{metric.name}")
            levels = {"recordings": theirs[-1][1]} if theirs else {}
            unit = f", {metric.unit}" if metric.unit else ""
            title = f"{metric.name}{unit}: {metric.about}"
            curves.append(curve(title, {"spoken": series(f"speech/{metric.name}")}, levels))
        page = render(
            Path(__file__).with_suffix(".html"),
            name=self._run_dir.name,
            directory=str(self._run_dir),
            identity=hashlib.sha256(str(self._run_dir.absolute()).encode()).hexdigest()[:16],
            verdict=verdict,
            step=step,
            tiles=self._tiles(step, lines),
            curves=[each for each in curves if each is not None],
            sentences=[self._sentence(number, row, steps) for number, row in enumerate(self._rows)],
            kept=[step for step in steps if step in checkpoints],
            corpus=" ".join(self._dataset.summary()),
            configuration=_flat(self._config),
        )
        write(page, self._run_dir / NAME)

    def _tiles(self, step: int, lines: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
        series = functools.partial(journal.series, lines)
        hours = trained_hours(lines)
        tiles = [(f"{step:,}", "steps" if math.isinf(self._end) else f"of {self._end:,.0f} steps")]
        if epoch := series("epoch"):
            tiles.append((f"{epoch[-1][1] + 1:,.0f}", "epochs begun"))
        tiles.append((f"{hours:.2f} h", "trained"))
        rate = series("speed/steps_per_second")
        to_go = (self._end - step) / rate[-1][1] / 3600 if rate and rate[-1][1] > 0 else math.inf
        if math.isfinite(to_go):
            tiles.append((f"{to_go:.2f} h", "to go"))
        if speech := series("speed/speech_seconds_per_second"):
            tiles.append((f"{speech[-1][1]:,.1f}", "seconds of speech a second"))
        if (price := self._config.run.price) is not None:
            tiles.append((f"{price * hours:,.2f}", "cost so far"))
            if math.isfinite(to_go):
                tiles.append((f"{price * to_go:,.2f}", "cost to go"))
        return tiles

    def _sentence(self, number: int, row: int, steps: Sequence[int]) -> dict[str, Any]:
        place = self._run_dir / samples.DIRECTORY
        players = [
            {"step": step, "audio": _player(place / str(step) / f"{number}.flac")}
            for step in reversed(steps)
        ]
        shown = steps[-1] if steps else 0
        drawn = {
            "spoken: mel spectrogram, phonemes below": f"{number}.png",
            "recording, its reconstruction, phonemes below": f"{number}.recorded.png",
        }
        pictures = [
            {"what": what, "image": _image(place / str(shown) / name)}
            for what, name in drawn.items()
        ]
        return {
            "number": number,
            "text": self._dataset.text(row) or str(number),
            "recording": self._recording(row),
            "players": [player for player in players if player["audio"]],
            "pictures": [picture for picture in pictures if picture["image"]],
            "shown": shown,
        }

    @functools.cache  # noqa: B019 - of the few test examples of the one run of a process
    def _recording(self, row: int) -> str:
        audio = self._dataset.audio(row).astype(np.float32) / 32768
        return sound(audio, self._dataset.config.sample_rate, _SECONDS)


def trained_hours(lines: Sequence[dict[str, Any]]) -> float:
    """Of the lines of a journal, without the pauses between two starts."""
    times = sorted(line["time"] for line in lines if "time" in line)
    return sum(b - a for a, b in itertools.pairwise(times) if b - a < _GAP) / 3600


@functools.lru_cache(maxsize=256)
def _player(path: Path) -> str | None:
    if not path.is_file():
        return None
    audio, rate = soundfile.read(path, dtype="float32")
    return sound(audio, rate, _SECONDS)


def _image(path: Path) -> str | None:
    if not path.is_file():
        return None
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _flat(config: Config) -> list[tuple[str, Any]]:
    sections = config.to_dict().items()
    return [(f"{section}.{name}", v) for section, own in sections for name, v in own.items()]
