"""TensorBoard events, written so that no disk can stop or block the run.

`tensorboardX` makes the events; its writer hands them to a thread that dies of a full disk,
and then blocks the run for ever. Here they are appended to the file at once (`Appended`).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.training.appending import Appended

# tensorboardX imports PyTorch where it is installed, for a type: half of a start's imports.
with contextlib.ExitStack() as stack:
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
        stack.callback(sys.modules.pop, "torch")
    from tensorboardX import summary
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c


class Events:
    """TensorBoard events of one run (`loggers.Logger`)."""

    def __init__(self, run_dir: Path, step: int):
        self._run_dir = run_dir
        # Events after `step` are of steps that a crash lost and that are now repeated.
        started = SessionLog(status=SessionLog.SessionStatus.START)
        head = [Event(file_version="brain.Event:2")]
        head += [Event(step=step, session_log=started)] if step else []
        # Opened anew, the file has a new name: it begins like the first.
        self._file = Appended(run_dir, self._name, "events", lambda: _records(head))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One number each."""
        self._write(step, [summary.scalar(name, value) for name, value in values.items()])

    def audio(self, step: int, tag: str, audio: np.ndarray, sample_rate: int) -> None:
        """Speech, float32 ``[samples]``, made as loud as it can be, as Piper does."""
        loud = audio / max(0.01, float(np.max(np.abs(audio), initial=0.0)))
        self._write(step, [summary.audio(tag, loud[:, None], sample_rate)])

    def image(self, step: int, tag: str, image: np.ndarray) -> None:
        """A picture, uint8 ``[height, width, 3]``."""
        self._write(step, [summary.image(_clean(tag), image, dataformats="HWC")])

    def histogram(self, step: int, tag: str, values: np.ndarray) -> None:
        """How numbers are spread."""
        self._write(step, [summary.histogram(_clean(tag), values, bins=30)])

    def parameters(self, values: Mapping[str, Any]) -> None:
        """What the run was started with, for the page of hyperparameters."""
        shown = {
            name: value if isinstance(value, int | float | str | bool) else str(value)
            for name, value in values.items()
        }
        self._write(0, summary.hparams(shown, {"validation/mel": 0.0}))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, step: int, summaries: Sequence[Any]) -> None:
        self._file.add([_records([Event(step=step, summary=each)]) for each in summaries])

    def _name(self) -> str:
        # TensorBoard reads files in the order of these numbers, whatever the clock does.
        before = [path.name.split(".")[3] for path in self._run_dir.glob("events.out.tfevents.*")]
        newest = max((int(stamp) for stamp in before if stamp.isdecimal()), default=0)
        stamp = max(int(time.time()), newest + 1)
        return f"events.out.tfevents.{stamp}.{socket.gethostname()}.{os.getpid()}"


def _clean(tag: str) -> str:
    """As TensorBoard has the names of pictures; `tensorboardX` would say it each time."""
    return re.sub(r"[^-/\w.]", "_", tag)


def _records(events: Sequence[Event]) -> bytes:
    for event in events:
        event.wall_time = time.time()
    return b"".join(map(_record, events))


def _record(event: Event) -> bytes:
    """A TFRecord: length and content, each with its checksum."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checksums) + content + next(checksums)
