"""The other processes of a run, watched: one that is lost ends all of them, soon and in words.

What is computed over several processes waits for all of them, for ever if one is killed or cut
off. Here each gives a sign of life every few seconds; where one stays away, the others say which
one and what is saved, and end. The same command, started on all again, goes on from there.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from vits_jax.checkpoints.store import DIRECTORY, step_directories
from vits_jax.ending import end_now, not_waited_for
from vits_jax.errors import RunFailed, UserError
from vits_jax.training.processes import Processes

_LOGGER = logging.getLogger(__name__)

BEAT = 2.0  # seconds between two signs of life
LOST = 30.0  # seconds without any, after which a process is lost
_GRACE = 15.0  # seconds for a checkpoint that is being written
_ALIVE = "vits_jax/alive/"
_FAILED, _LEFT = "failed", "left"
_EXIT_FAILED = 1


class Peers:
    """Watches the other processes, in threads, and gives this one's signs of life.

    Args:
        processes: of the run.

    Attributes:
        run_dir: the run's directory, if it has one.
        writing: whether a checkpoint is being written here.
    """

    def __init__(self, processes: Processes):
        self.run_dir: Path | None = None
        self.writing: Callable[[], bool] = lambda: False
        self._processes, self._over = processes, threading.Event()
        self._ending = threading.Lock()  # one thread says why
        others = [index for index in range(processes.count) if index != processes.index]
        self._heard = dict.fromkeys(others, time.monotonic())
        self._signs = dict.fromkeys(others, "")  # of life, or of how it ended
        if not processes.alone:
            for work in (self._beat, self._watch):
                threading.Thread(target=work, name="peers", daemon=True).start()
            self._abort = _ON_SIGNAL(lambda number: self._lost_first())
            _on_abort(self._abort)

    def leave(self, sign: str = _LEFT) -> None:
        """Watch no more, and tell the others how this one ends."""
        self._over.set()
        if not self._processes.alone:
            _on_abort(None)
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._say(sign)

    def failed(self, error: BaseException) -> None:
        """`leave`, after an error that only this process may have.

        What JAX raises may come of another that is gone: its name is waited for, and then this
        process ends here.
        """
        if self._processes.alone:
            return
        if not isinstance(error, (UserError, RunFailed, OSError, KeyboardInterrupt)):
            self._over.wait(LOST + 2 * BEAT)
        # JAX's runtime would wait for the others at the end of this process.
        not_waited_for(lambda: True)
        self.leave(f"{_FAILED} {' '.join(str(error).split())[:200]}")
        if self._processes.first:
            time.sleep(2 * BEAT)  # until the others have heard: this one's end would be theirs

    def _beat(self) -> None:
        """In a thread: asks and tells; where the network is cut it may stay in there."""
        beats = 0
        while not self._over.wait(BEAT):
            beats += 1
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first process is gone
                self._say(f"{beats} {socket.gethostname()}")
                for key, sign in self._processes.client.key_value_dir_get(_ALIVE):
                    index = int(key.rsplit("/", 1)[-1])
                    if index in self._signs and self._signs[index] != sign:
                        self._signs[index], self._heard[index] = sign, time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(BEAT):
            for index, sign in self._signs.items():
                word, _, rest = sign.partition(" ")
                if word == _FAILED:
                    self._end(f"process {index} failed: {rest}")
                elif word != _LEFT and time.monotonic() - self._heard[index] > LOST:
                    where = f" on {rest}" if rest else ""
                    self._end(f"process {index}{where} is lost, no sign of it for {LOST:.0f} s")

    def _say(self, sign: str) -> None:
        key = f"{_ALIVE}{self._processes.index}"
        self._processes.client.key_value_set(key, sign, allow_overwrite=True)

    def _end(self, why: str) -> None:
        """In the watching thread: the main one may wait for ever."""
        with self._ending:
            deadline = time.monotonic() + _GRACE
            while self.writing() and time.monotonic() < deadline:
                time.sleep(BEAT / 10)
            _LOGGER.error("failed: %s; %s; start all processes again to go on", why, self._saved())
            end_now(_EXIT_FAILED)

    def _lost_first(self) -> None:
        """In a thread of JAX's runtime, which aborts where the first process, its host, is gone.

        It has no other way to be told what to do then: a callback that it takes crashes (0.10.2).
        """
        if self._processes.first:
            why = "JAX's runtime aborted"
        else:
            why = "process 0 is lost, it does not answer any more"
        self._end(why)

    def _saved(self) -> str:
        steps = [] if self.run_dir is None else step_directories(self.run_dir / DIRECTORY)
        return f"the last step saved is {steps[-1].name}" if steps else "no step is saved"


_ON_SIGNAL = ctypes.CFUNCTYPE(None, ctypes.c_int)


def _on_abort(handler: Any) -> None:
    """What to do on SIGABRT in any thread; None: end the process.

    Python's own handlers run in the main thread, and SIGABRT does not come back from there.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGABRT, None if handler is None else ctypes.cast(handler, ctypes.c_void_p))


@contextlib.contextmanager
def watched(processes: Processes) -> Iterator[Peers]:
    """Inside, a lost process ends this one, and what fails here ends the others."""
    peers = Peers(processes)
    try:
        yield peers
    except BaseException as error:
        if getattr(error, "common", False):
            peers.leave()
        else:
            peers.failed(error)
        raise
    peers.leave()
