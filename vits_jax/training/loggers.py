"""Where a run's numbers, sounds and pictures go: ``metrics.jsonl`` always, and ``--logger``.

A logger may fail, by its disk or its network, without the run: what it does not take is dropped.
"""

from __future__ import annotations

import csv
import importlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vits_jax.errors import UserError
from vits_jax.training.appending import Appended
from vits_jax.training.journal import Journal

_LOGGER = logging.getLogger(__name__)


class Logger(Protocol):
    """What loggers take."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One number each."""

    def audio(self, step: int, tag: str, audio: np.ndarray, sample_rate: int) -> None:
        """Speech, float32 ``[samples]``."""

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """A picture, uint8 ``[height, width, 3]``."""

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        """How numbers are spread."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """What the run was started with."""

    def close(self) -> None:
        """Nothing more comes."""


class Csv:
    """``metrics.csv``: a line ``step,name,value`` for each number, and nothing else."""

    def __init__(self, run_dir: Path, step: int):
        del step
        self._file = Appended(run_dir, lambda: "metrics.csv", "metrics", lambda: _csv_line(_HEAD))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.add([_csv_line((step, name, repr(float(v)))) for name, v in values.items()])

    def audio(self, step: int, tag: str, audio: np.ndarray, sample_rate: int) -> None: ...

    def image(self, step: int, tag: str, image: np.ndarray) -> None: ...

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None: ...

    def parameters(self, values: Mapping[str, Any]) -> None: ...

    def close(self) -> None:
        self._file.close()


_HEAD = ("step", "name", "value")


def _csv_line(fields: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode()


class Wandb:
    """Weights & Biases: one run there for each start, named as the run directory."""

    def __init__(self, run_dir: Path, step: int):
        del step
        self._wandb = _import("wandb")
        self._run = self._wandb.init(project="vits_jax", name=run_dir.name, dir=str(run_dir))

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        # Its own count of steps may not go back, ours does where a run goes on from a checkpoint.
        self._run.log({**values, "step": step})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)

    def audio(self, step: int, tag: str, audio: np.ndarray, sample_rate: int) -> None:
        self._log(step, {tag: self._wandb.Audio(audio, sample_rate=sample_rate)})

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        self._log(step, {tag: self._wandb.Image(image)})

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        self._log(step, {tag: self._wandb.Histogram(values)})

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow: one run there for each start; pictures as artifacts, no sounds."""

    def __init__(self, run_dir: Path, step: int):
        del step
        self._mlflow = _import("mlflow")
        self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "vits_jax"))
        self._mlflow.start_run(run_name=run_dir.name)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({name: float(v) for name, v in values.items()}, step=step)

    def audio(self, step: int, tag: str, audio: np.ndarray, sample_rate: int) -> None: ...

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        name = "".join(c if c.isalnum() or c in "-_/" else "_" for c in tag)
        self._mlflow.log_image(image, f"{name}/{step}.png")

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None: ...

    def parameters(self, values: Mapping[str, Any]) -> None:
        self._mlflow.log_params({name: str(value)[:500] for name, value in values.items()})

    def close(self) -> None:
        self._mlflow.end_run()


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--logger {name}: {error}: pip install {name}, or use another --logger"
        ) from error


class Records:
    """The loggers of one run; writes nothing without a directory.

    Args:
        run_dir: the run's directory.
        step: that the run begins at.
        logger: of `config_checks.LOGGERS`.

    Raises:
        UserError: its package is missing, or it cannot begin.
    """

    def __init__(self, run_dir: Path | None, step: int, logger: str = "none"):
        self._journal = None if run_dir is None else Journal(run_dir, step)
        self._logger = None if run_dir is None else _make(logger, run_dir, step)
        self._name, self._failing = logger, False

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One number each."""
        if self._journal is not None:
            self._journal.scalars(step, values)
        self._tell(lambda logger: logger.scalars(step, values))

    def note(self, step: int, content: Mapping[str, Any]) -> None:
        """Anything else that is to stand in the journal."""
        if self._journal is not None:
            self._journal.note(step, content)

    def audio(self, step: int, tag: str, audio: np.ndarray, sample_rate: int) -> None:
        """Speech, float32 ``[samples]``."""
        self._tell(lambda logger: logger.audio(step, tag, audio, sample_rate))

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """A picture, uint8 ``[height, width, 3]``."""
        self._tell(lambda logger: logger.image(step, tag, image))

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        """How numbers are spread."""
        self._tell(lambda logger: logger.histogram(step, tag, values))

    def parameters(self, values: Mapping[str, Any]) -> None:
        """What the run was started with."""
        self._tell(lambda logger: logger.parameters(values))

    def close(self) -> None:
        """Nothing more comes."""
        if self._journal is not None:
            self._journal.close()
        self._tell(lambda logger: logger.close())

    def _tell(self, what: Callable[[Logger], None]) -> None:
        if self._logger is None:
            return
        try:
            what(self._logger)
        except Exception as error:  # noqa: BLE001 - what a service raises must not end a run
            if not self._failing:
                _LOGGER.warning("--logger %s does not take it: %s", self._name, error)
            self._failing = True
        else:
            self._failing = False


def _make(name: str, run_dir: Path, step: int) -> Logger | None:
    from vits_jax.training.events import Events

    made: Mapping[str, Callable[[Path, int], Logger]] = {
        "tensorboard": Events,
        "wandb": Wandb,
        "mlflow": MLflow,
        "csv": Csv,
    }
    if name == "none":
        return None
    try:
        return made[name](run_dir, step)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--logger {name} cannot begin: {' '.join(str(error).split())[:300]}: see to its "
            "settings, or use another --logger"
        ) from error
