"""TensorBoard events, written so that no disk can stop or block the run.

`tensorboardX` makes the events; its writer hands them to a thread that dies of a full disk,
and then blocks the run for ever. Here they are appended to the file at once, and what
cannot be written is dropped: the file ends with the last whole event, and goes on when
the disk does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# tensorboardX imports PyTorch where it is installed, for a type: half of a start's imports.
with contextlib.ExitStack() as stack:
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
        stack.callback(sys.modules.pop, "torch")
    from tensorboardX import summary
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import masked_crc32c

_LOGGER = logging.getLogger(__name__)


class Events:
    """TensorBoard events of one run; writes nothing without a directory."""

    def __init__(self, run_dir: Path | None, step: int):
        self._run_dir = run_dir
        self._file: int | None = None
        self._path = Path()
        self._size = 0  # of the file, in whole events
        self._lost = 0  # since the disk last took one
        # Events after `step` are of steps that a crash lost and that are now repeated.
        started = SessionLog(status=SessionLog.SessionStatus.START)
        self._head = [Event(file_version="brain.Event:2")]
        self._head += [Event(step=step, session_log=started)] if step else []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One number each."""
        self._write([Event(step=step, summary=summary.scalar(n, v)) for n, v in values.items()])

    def audio(self, step: int, tag: str, audio: np.ndarray, sample_rate: int) -> None:
        """Speech, float32 ``[samples]``, made as loud as it can be, as Piper does."""
        loud = audio / max(0.01, float(np.max(np.abs(audio), initial=0.0)))
        self._write([Event(step=step, summary=summary.audio(tag, loud[:, None], sample_rate))])

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file = None

    def _write(self, events: Sequence[Event]) -> None:
        if self._run_dir is None or not events:
            return
        try:
            if self._file is None:
                self._file = self._open(self._run_dir)
            _append(self._file, [*(self._head if self._size == 0 else ()), *events])
            self._size = os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            self._drop(len(events), error)
            return
        if self._lost:
            _LOGGER.warning("%s: events are written again; %d were lost", self._path, self._lost)
            self._lost = 0

    def _open(self, run_dir: Path) -> int:
        # TensorBoard reads files in the order of these numbers, whatever the clock does.
        before = [path.name.split(".")[3] for path in run_dir.glob("events.out.tfevents.*")]
        newest = max((int(stamp) for stamp in before if stamp.isdecimal()), default=0)
        stamp = max(int(time.time()), newest + 1)
        self._path = run_dir / f"events.out.tfevents.{stamp}.{socket.gethostname()}.{os.getpid()}"
        self._size = 0
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _drop(self, count: int, error: OSError) -> None:
        if not self._lost:
            _LOGGER.warning(
                "%s: events cannot be written (%s): training goes on without them until they can",
                *(self._path if self._file is not None else self._run_dir, error.strerror),
            )
        self._lost += count
        if self._file is not None:
            try:
                os.ftruncate(self._file, self._size)  # not half of an event
            except OSError:
                self.close()  # the next one begins a file of its own


def _append(file: int, events: Sequence[Event]) -> None:
    for event in events:
        event.wall_time = time.time()
    left = memoryview(b"".join(map(_record, events)))
    while left:
        left = left[os.write(file, left) :]


def _record(event: Event) -> bytes:
    """A TFRecord: length and content, each with its checksum."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checksums) + content + next(checksums)
