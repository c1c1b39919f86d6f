"""What a run said and drew at its validations, in ``samples/STEP``: FLAC and PNG, for its page.

Kept for every checkpoint that is kept, and for the newest validations.
"""

from __future__ import annotations

import io
import logging
import shutil
from pathlib import Path

import numpy as np
import soundfile

from vits_jax import files
from vits_jax.checkpoints.store import DIRECTORY as CHECKPOINTS
from vits_jax.checkpoints.store import step_directories
from vits_jax.errors import UserError
from vits_jax.training import pictures
from vits_jax.training.evaluation import Picture, Sound

_LOGGER = logging.getLogger(__name__)

DIRECTORY = "samples"
NEWEST = 3
"""Validations whose samples stay though their step has no checkpoint."""


class Samples:
    """Those of one run.

    Args:
        run_dir: its directory.
    """

    def __init__(self, run_dir: Path):
        self._run_dir, self._failing, self._step = run_dir, False, -1

    def keep(self, step: int, shown: Sound | Picture) -> None:
        """Write one of `step`; a disk that does not take it is warned of once."""
        if step != self._step:
            self._tidy()
            self._step = step
        directory = self._run_dir / DIRECTORY / str(step)
        if isinstance(shown, Sound):
            path, content = directory / f"{shown.file}.flac", _flac(shown)
        else:
            path, content = directory / f"{shown.file}.png", pictures.png(shown.image)
        try:
            files.write({path: content})
        except UserError as error:
            if not self._failing:
                _LOGGER.warning("samples: %s", error)
            self._failing = True
        else:
            self._failing = False

    def _tidy(self) -> None:
        kept = {path.name for path in step_directories(self._run_dir / CHECKPOINTS)}
        for step in steps(self._run_dir)[:-NEWEST]:
            if str(step) not in kept:
                shutil.rmtree(self._run_dir / DIRECTORY / str(step), ignore_errors=True)


def steps(run_dir: Path) -> list[int]:
    """That have samples, ascending."""
    directory = run_dir / DIRECTORY
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _flac(sound: Sound) -> bytes:
    file = io.BytesIO()
    loudest = max(1.0, float(np.max(np.abs(sound.audio), initial=0.0)))
    audio = np.nan_to_num(sound.audio / loudest)
    soundfile.write(file, audio, sound.sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
