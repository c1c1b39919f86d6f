"""Memory that a training step takes on one device: what the compiler says, remembered.

Only the compiler of a device knows what a program takes of it. What it says of a shape is kept
beside the compiled programs, so that the next run, and ``plan``, know it before they compile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import jax
from jax.sharding import Mesh

from vits_jax import device_memory, files
from vits_jax.cli import version
from vits_jax.compilation import local_directory
from vits_jax.config import OFF, Config
from vits_jax.device_memory import LOWER, Needs, gigabytes, shown
from vits_jax.errors import UserError
from vits_jax.model.precision import chosen
from vits_jax.state import TrainState

_LOGGER = logging.getLogger(__name__)

Shape = tuple[int, ...]  # of a batch: rows over all devices, phonemes, frames


class StepMemory:
    """What the training step of a run takes of its devices, by shape.

    Args:
        config: of the run.
        mesh: its devices.
        resident: bytes on each of them of a corpus that is kept there.
    """

    def __init__(self, config: Config, mesh: Mesh, resident: int = 0):
        self._device = mesh.local_devices[0]
        # CPU devices have one memory together.
        cpu = self._device.platform == "cpu"
        self._share = len(mesh.local_devices) if cpu else 1
        self._config, self._resident = config, resident
        self._capacity = device_memory.capacity(self._device)
        directory = local_directory()
        name = f"memory-{_identity(config, mesh)}.json"
        self._file = None if directory is None else directory / name

    def known(self, shapes: Iterable[Shape]) -> dict[Shape, int]:
        """Bytes of one memory, the resident corpus with it, of those that were compiled before."""
        found = {} if self._file is None else _read(self._file)
        return {shape: self._all(found[shape]) for shape in shapes if shape in found}

    def _all(self, size: int) -> int:
        return self._share * (self._resident + size)

    def announce(self, shapes: Iterable[Shape], state: TrainState) -> None:
        """Say, before anything is compiled, what the largest batch will take of what there is.

        Args:
            shapes: of the run's batches.
            state: parameters and optimizers; only shapes matter.

        Raises:
            UserError: a resident corpus does not fit beside them.
        """
        self._check(state)
        shapes = tuple(shapes)
        known, has = self.known(shapes), shown(self._device)
        if len(known) < len(shapes):
            _LOGGER.info("memory: %s; what a batch takes is told when its step is compiled", has)
            return
        largest = max(known, key=known.__getitem__)
        if not self._warn(largest, known[largest]):
            _LOGGER.info(
                "memory: the largest batch, %s (rows x phonemes x frames), takes %s, %s",
                *(_shown(largest), gigabytes(known[largest]), has),
            )

    def compiled(self, shape: Shape, needs: Needs) -> None:
        """Remember what the compiler says, and warn where that is more than there is."""
        self._warn(shape, self._all(needs.bytes))
        if self._file is None:
            return
        known = _read(self._file)
        if known.get(shape) != needs.bytes:
            known[shape] = needs.bytes
            text = json.dumps({_shown(shape): size for shape, size in sorted(known.items())})
            try:
                files.write({self._file: text.encode()})
            except (OSError, UserError) as error:
                _LOGGER.debug("%s: not written: %s", self._file, error)

    def _warn(self, shape: Shape, size: int) -> bool:
        if self._capacity is None or size <= self._capacity:
            return False
        leave = "leave --data-on-device out, or " if self._resident else ""
        of_it = f" (of it the corpus {gigabytes(self._share * self._resident)})"
        _LOGGER.warning(
            "memory: a batch of %s (rows x phonemes x frames) takes %s%s, %s; where it runs out, "
            "%s%s",
            *(_shown(shape), gigabytes(size), of_it if self._resident else ""),
            *(shown(self._device), leave, LOWER),
        )
        return True

    def _check(self, state: TrainState) -> None:
        """`UserError` unless a corpus fits beside the state, which is always there."""
        if not self._resident or self._capacity is None:
            return
        size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
        if self._all(size) > self._capacity:
            raise UserError(
                f"--data-on-device: {self._config.data.dataset_dir} takes "
                f"{gigabytes(self._share * self._resident)} beside {gigabytes(self._share * size)} "
                f"of model and optimizers, {shown(self._device)}: leave the flag out, or use a "
                "part of the data"
            )


def _identity(config: Config, mesh: Mesh) -> str:
    """Of all that decides what a shape takes."""
    device = mesh.devices.flat[0]
    sections = config.to_dict()
    about = {
        "versions": [version(), jax.__version__],
        "devices": [device.device_kind, mesh.size],
        "precision": chosen(config.run.precision, device.platform),
        "parts": config.data.accumulate_grad_batches,
        "averages": config.optimizer.ema_decay > 0,
        **{name: sections[name] for name in ("audio", "model")},
        **({"averages": True} if config.optimizer.ema_decay else {}),
        **({"kept": kept} if (kept := config.optimizer.keep_speakers) != OFF else {}),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _read(file: Path) -> dict[Shape, int]:
    """What is remembered; nothing where that cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {tuple(map(int, key.split(" x "))): int(size) for key, size in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _shown(shape: Shape) -> str:
    return " x ".join(map(str, shape))
