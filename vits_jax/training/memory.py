"""Memory that a training step takes on one device, estimated from its batch's shape."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from jax.sharding import Mesh

from vits_jax import device_memory
from vits_jax.config import FIELDS, Config, convert, read_yaml
from vits_jax.device_memory import LOWER, gigabytes, shown
from vits_jax.errors import UserError
from vits_jax.model.precision import chosen
from vits_jax.presets import preset_path

_LOGGER = logging.getLogger(__name__)


class _Memory(NamedTuple):
    """Bytes of a step in float32: of the state, and beside it per step, row, frame, phoneme."""

    state: int
    step: int
    row: int
    frame: int
    phoneme: int


# Bytes of alignment and attention, which grow with both lengths, in any preset: nothing for a
# sentence, a third of all for a minute.
_PHONEME_AND_FRAME = 85

# Fitted to XLA's own count (`memory_analysis`) of the compiled step, on CPU: medium at four
# shapes from 48 rows of 200 frames to 4 of 5,168, to 2 % of each; the others at four shapes of
# at most 600 frames.
_MEDIUM = _Memory(844_931_100, 436_000_000, 149_500_000, 68_200, 156_500)
_MEMORY = {
    "x-low": _Memory(645_845_916, 389_000_000, 151_000_000, 48_400, 130_000),
    "low": _MEDIUM,
    "medium": _MEDIUM,
    "high": _Memory(996_998_172, 488_000_000, 258_000_000, 116_000, 239_000),
}


def predict(quality: str, rows: int, phonemes: int, frames: int) -> int | None:
    """Bytes; None for a preset that was not measured."""
    m = _MEMORY.get(quality)
    if m is None:
        return None
    row = m.row + frames * m.frame + phonemes * m.phoneme + phonemes * frames * _PHONEME_AND_FRAME
    return m.state + m.step + rows * row


def preset_of(config: Config) -> str | None:
    """A preset that was measured and has this network; None if there is none."""
    model = vars(config.model)
    for name in _MEMORY:
        path = preset_path(name)
        sizes = {
            key: convert(value, FIELDS[key].type, f"{path}: {key}")
            for key, value in read_yaml(path).items()
            if key in FIELDS and FIELDS[key].section == "model"
        }
        if sizes.items() <= model.items():
            return name
    return None


def announce(
    config: Config, shapes: Iterable[tuple[int, int, int]], mesh: Mesh, resident: int = 0
) -> None:
    """Say, before anything is compiled, what the largest batch will take of what there is.

    Args:
        config: of the run.
        shapes: rows of a batch over all devices, phonemes and frames; at least one.
        mesh: the devices.
        resident: bytes on each device of a corpus that is kept there.

    Raises:
        UserError: that corpus does not fit beside the rest.
    """
    device, preset = mesh.local_devices[0], preset_of(config)
    if resident:
        _check(resident, preset, config, mesh)
    if preset is None:
        _LOGGER.info("memory: %s; what this model takes is not known before", shown(device))
        return
    share, size = _share(mesh), device_memory.capacity(device)
    predicted = expected(config, shapes, mesh, resident)
    largest = max(predicted, key=predicted.__getitem__)
    # Measured in float32: in fewer bits it is less, by how much is not known before.
    exact = chosen(config.run.precision, device.platform) == "32"
    leave = "leave --data-on-device out, or " if resident else ""
    too_much = exact and size is not None and predicted[largest] > size
    _LOGGER.log(
        logging.WARNING if too_much else logging.INFO,
        "memory: the largest batch, %s (rows x phonemes x frames), is expected to take %s%s%s, "
        "%s%s",
        *(" x ".join(map(str, largest)), "" if exact else "at most "),
        gigabytes(predicted[largest]),
        f" (of it the corpus {gigabytes(share * resident)})" if resident else "",
        shown(device),
        f"; where it runs out, {leave}{LOWER}" if too_much else "",
    )


def expected(
    config: Config, shapes: Iterable[tuple[int, int, int]], mesh: Mesh, resident: int = 0
) -> dict[tuple[int, int, int], int]:
    """Bytes of a device's memory in float32, for each shape; empty where they are not known.

    Args: see `announce`.
    """
    preset, parts = preset_of(config), mesh.size * config.data.accumulate_grad_batches
    if preset is None:
        return {}
    return {
        shape: _share(mesh) * (resident + (predict(preset, shape[0] // parts, *shape[1:]) or 0))
        for shape in shapes
    }


def _share(mesh: Mesh) -> int:
    """Copies of what is on each device that one memory has: CPU devices have one together."""
    return len(mesh.local_devices) if mesh.devices.flat[0].platform == "cpu" else 1


def _check(resident: int, preset: str | None, config: Config, mesh: Mesh) -> None:
    """`UserError` unless a corpus fits beside parameters and optimizers, which are always there."""
    device, share = mesh.local_devices[0], _share(mesh)
    size, state = device_memory.capacity(device), 0 if preset is None else _MEMORY[preset].state
    if size is not None and share * (resident + state) > size:
        beside = f" beside {gigabytes(share * state)} of model and optimizers" if state else ""
        raise UserError(
            f"--data-on-device: {config.data.dataset_dir} takes {gigabytes(share * resident)}"
            f"{beside}, {shown(device)}: leave the flag out, or use a part of the data"
        )
