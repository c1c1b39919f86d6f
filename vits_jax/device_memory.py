"""Memory of a device: what it has, what a program asks for, what to say when that is too much."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import jax
import psutil

from vits_jax.errors import RunFailed

LOWER = (
    "lower --batch-size (or --batch-frames, a budget of frames for each batch), or leave out long "
    "utterances with --max-frames or --max-phoneme-ids"
)
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# "Out of memory allocating 8 bytes", "… while trying to allocate 1.5GiB", "Used 23.66G of 15.75G"
_ASKED = re.compile(r"(?:allocat\w*|Used) (\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B|bytes|\b)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def capacity(device: jax.Device) -> int | None:
    """Bytes that this process may have on a device; None where it does not tell."""
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    return _host_limit()


def used(device: jax.Device) -> int | None:
    """Bytes in use of a device, or of the host by this process; None where it does not tell."""
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_in_use")
    return int(psutil.Process().memory_info().rss)


def host_room() -> int:
    """Bytes that this process may have of the host's memory, beside what it has."""
    return _host_limit() - psutil.Process().memory_info().rss


def _host_limit() -> int:
    own = psutil.Process().memory_info().rss
    limits = [psutil.virtual_memory().available + own, *_cgroup_limits()]
    of_process = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(limits if of_process == resource.RLIM_INFINITY else [*limits, of_process])


def _cgroup_limits() -> Iterator[int]:
    """What containers and batch systems grant: the limits of this process's groups, in bytes."""
    if not _OWN_CGROUPS.is_file():
        return
    for line in _OWN_CGROUPS.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = _CGROUPS / controllers
        for name in (group, *PurePosixPath(group).parents):
            for limit in ("memory.max", "memory.limit_in_bytes"):  # version 2, version 1
                path = top / str(name).strip("/") / limit
                with contextlib.suppress(OSError, ValueError):  # no such group here, or "max"
                    yield int(path.read_text())


class Needs(NamedTuple):
    """What is needed to run something: so many bytes, on each such device."""

    bytes: int
    device: jax.Device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host, had no memory left."""
    if isinstance(error, MemoryError):
        return True
    # "Shared memory" of a GPU's processors is something else that a program can exhaust.
    text = str(error).lower()
    exhausted = "resource_exhausted" in text and "shared memory" not in text
    return isinstance(error, jax.errors.JaxRuntimeError) and exhausted and "memory" in text


@contextlib.contextmanager
def explained(about: Callable[[], tuple[str, Needs | None]], advice: str = LOWER) -> Iterator[None]:
    """Where memory runs out inside, `RunFailed` says in one line of what, and what to do.

    Results that are waited for inside count too: some devices tell of a program that they
    could not run only then.

    Args:
        about: tells what was done when memory ran out, and what that needs, if it is known.
        advice: what to do.

    Raises:
        RunFailed: memory ran out.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what, needs = about()
        device = jax.local_devices()[0] if needs is None else needs.device
        size = _asked_in(str(error)) if needs is None else needs.bytes
        numbers = (f"it asks for {gigabytes(size)}" if size else "", shown(device))
        told = ", ".join(filter(None, numbers))
        raise RunFailed(f"out of memory in {what}: {told}: {advice}") from error


def _asked_in(message: str) -> int | None:
    """Bytes that an error message of XLA says it could not have."""
    found = _ASKED.search(message)
    return round(float(found[1]) * _UNITS[found[2]]) if found else None


def shown(device: jax.Device) -> str:
    """What a device has, in words."""
    size = capacity(device)
    return f"the device ({device.device_kind}) has {'?' if size is None else gigabytes(size)}"


def gigabytes(size: int) -> str:
    """As people write it: 9.9 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
