"""The dear metrics of what a run says, in a process of their own, so that training does not wait.

They arrive later than the step that they are of, and go into the records under that step:
``speech/NAME``, and ``recordings/NAME``, what the recordings of the same sentences get.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vits_jax.config import Config, RunConfig
from vits_jax.data.manifest import Dataset
from vits_jax.data.voice_config import language_of
from vits_jax.metrics import built_in, of_folder
from vits_jax.training import samples
from vits_jax.training.loggers import Records

_LOGGER = logging.getLogger(__name__)

METRICS = "all"
_RECORDINGS = "recordings"
_LAST = 600.0  # seconds that the end of a run waits for them at most


def names_of(run: RunConfig) -> frozenset[str]:
    """The metrics that a run takes, by the names that ``--keep-best-by`` calls them.

    Without ``mel``, which there is the validation's.
    """
    if not run.metrics_every:
        return frozenset()
    own = set() if run.metric is None else {run.metric.rpartition(":")[2]}
    return frozenset({metric.name for metric in built_in.METRICS} - {"mel"} | own)


class SpeechMetrics:
    """Of one run.

    Args:
        run_dir: its directory.
        config: of it; ``metrics_every`` says how often.
        dataset: its data.
        rows: of the dataset, the test examples.
    """

    def __init__(self, run_dir: Path, config: Config, dataset: Dataset, rows: np.ndarray):
        self._directory = run_dir / samples.DIRECTORY
        self._dataset, self._rows = dataset, rows
        self._every, self._metric = config.run.metrics_every, config.run.metric
        self._seen = 0  # validations
        self._process: subprocess.Popen[bytes] | None = None
        self._step = self._begun = -1  # of the newest validation, and of the newest that is scored
        self._told: set[str] = set()
        self._scores: list[tuple[int, dict[str, float]]] = []

    @property
    def scoring(self) -> int | None:
        """The step that is being scored; None: none is."""
        return None if self._process is None else self._begun

    @property
    def next(self) -> bool:
        """Whether the next validation will be scored."""
        return bool(self._every) and (self._seen + 1) % self._every == 0 and self._process is None

    def scores(self) -> list[tuple[int, dict[str, float]]]:
        """What was found since the last call: steps, and numbers by metric of which less is better.

        Of what should be high the negative, of what should be near the recordings' the distance.
        """
        found, self._scores = self._scores, []
        return found

    def validated(self, step: int, records: Records) -> None:
        """After a validation: take in what is done, and begin anew if it is time."""
        self._take(records)
        self._seen, self._step = self._seen + 1, step
        if self._every and self._seen % self._every == 0 and self._process is None:
            self._begin()

    def ended(self, records: Records) -> bool:
        """At the end of a run: score the last validation too, and wait for it.

        Returns:
            Whether there is something new.
        """
        before = self._begun
        if not self._every or self._step < 0:
            return False
        self._take(records, _LAST)
        if self._begun != self._step:
            self._begin()
            if self._process is not None:
                _LOGGER.info("taking the metrics of step %d", self._step)
            self._take(records, _LAST)
        return self._begun != before

    def close(self) -> None:
        """What is not done is not waited for."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _begin(self) -> None:
        folder, clips = self._directory / str(self._step), []
        try:
            for number, row in enumerate(self._rows):
                if not (folder / f"{number}.flac").is_file():
                    continue
                clips.append(
                    {
                        "spoken": f"{number}.flac",
                        "recording": f"../{_RECORDINGS}/{self._recording(number, int(row))}",
                        "text": self._dataset.text(row) or None,
                        "speaker": str(self._dataset.speaker_ids[row]),
                    }
                )
            if not clips:
                return
            language = language_of(self._dataset.config.raw)
            names = [METRICS, *([] if self._metric is None else [self._metric])]
            asked = {"language": language, "metrics": names, "clips": clips}
            (folder / of_folder.ASKED).write_text(json.dumps(asked), encoding="utf-8")
            command = [sys.executable, "-m", of_folder.__name__, str(folder)]
            with (folder / "metrics.log").open("wb") as log:
                self._process = subprocess.Popen(
                    ["nice", *command] if sys.platform != "win32" else command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"},
                )
            self._begun = self._step
        except OSError as error:
            self._warn(f"cannot be taken: {error}")

    def _recording(self, number: int, row: int) -> str:
        """The file of a recording, which is made once."""
        path = self._directory / _RECORDINGS / f"{number}.flac"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, self._dataset.audio(row), self._dataset.config.sample_rate)
        return path.name

    def _take(self, records: Records, patience: float = 0.0) -> None:
        """What the process found, if it is done within so many seconds."""
        if self._process is None:
            return
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            if patience:
                self._warn(f"took longer than {patience:.0f} s")
                self.close()
            return
        self._process = None
        folder = self._directory / str(self._begun)
        try:
            if code:
                lines = (folder / "metrics.log").read_text(errors="replace").splitlines()
                raise OSError(lines[-1] if lines else f"exit code {code}")
            found = json.loads((folder / of_folder.FOUND).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self._warn(f"cannot be taken: {error}")
            return
        numbers = {}
        for name, result in found["metrics"].items():
            for of, own in (("speech", result), ("recordings", result["recordings"])):
                if own is not None and own["mean"] is not None:
                    numbers[f"{of}/{name}"] = own["mean"]
        records.scalars(self._begun, numbers)
        self._scores.append((self._begun, _less_is_better(found["metrics"])))
        records.note(self._begun, {"intervals": _intervals(found["metrics"])})
        for name, why in found["not_taken"].items():
            self._warn(f"{name} is not taken: {why}")

    def _warn(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _LOGGER.warning("metrics of speech: %s", what)


def _less_is_better(metrics: dict[str, Any]) -> dict[str, float]:
    found = {}
    for name, result in metrics.items():
        mean, own = result["mean"], result["recordings"]
        if mean is None:
            continue
        if result["better"] == "nearest":
            if own is not None and own["mean"] is not None:
                found[name] = abs(mean - own["mean"])
        else:
            found[name] = -mean if result["better"] == "higher" else mean
    return found


def _intervals(metrics: dict[str, dict[str, float | None]]) -> dict[str, list[float | None]]:
    """95 % of each mean."""
    return {name: [result["low"], result["high"]] for name, result in metrics.items()}
