"""After each validation: the verdict, said and written down, and the run's page."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np

from vits_jax.config import Config
from vits_jax.data.manifest import Dataset
from vits_jax.metrics.verdict import Verdict, judge
from vits_jax.model.discriminator import PERIODS
from vits_jax.training import journal
from vits_jax.training.loggers import Records
from vits_jax.training.run_page import RunPage
from vits_jax.training.speech_metrics import SpeechMetrics
from vits_jax.training.stopping import Reason, Stop

_LOGGER = logging.getLogger(__name__)

_ANSI = {"green": 32, "yellow": 33, "orange": 33, "red": 31, "grey": 90}


class Judging:
    """Of one run.

    Args:
        run_dir: its directory.
        config: of it.
        dataset: its data.
        rows: of the dataset, the test examples.
        end: the step at which it ends; infinite: it does not.
    """

    def __init__(
        self, run_dir: Path, config: Config, dataset: Dataset, rows: np.ndarray, end: float
    ):
        self._run_dir, self._config = run_dir, config
        self.metrics = SpeechMetrics(run_dir, config, dataset, rows)
        self._page = RunPage(run_dir, config, dataset, rows, end)
        self._failing = False

    def __call__(self, step: int, records: Records, stop: Stop) -> Verdict:
        """Judge as of a step; ``--stop-when`` may end the run."""
        self.metrics.validated(step, records)
        verdict = self._judge(step, records)
        if verdict.kind == "plateau" and self._config.run.stop_when == "plateau":
            stop.ask(Reason(f"--stop-when plateau ({verdict.reason})", 0))
        return verdict

    def ended(self, step: int, records: Records) -> None:
        """At the end of a run that was not interrupted: with all metrics of the last validation."""
        if self.metrics.ended(records):
            self._judge(step, records)

    def close(self) -> None:
        """Nothing more is waited for."""
        self.metrics.close()

    def _judge(self, step: int, records: Records) -> Verdict:
        history = journal.history(journal.read(self._run_dir))
        verdict = judge(history, discriminators=1 + len(PERIODS))
        records.note(step, {"verdict": verdict.kind, "reason": verdict.reason})
        told = str(verdict)
        if sys.stderr.isatty():
            told = f"\033[{_ANSI[verdict.colour]}m{told}\033[0m"
        _LOGGER.info("%s", told)
        try:
            self._page.write(step, verdict)
            self._failing = False
        except OSError as error:  # a page must not end a run
            if not self._failing:
                _LOGGER.warning("the run's page: %s", error)
            self._failing = True
        return verdict
