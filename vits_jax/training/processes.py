"""The processes of a run: joined to one run, and of one mind about it.

JAX's distributed runtime joins them. It is found on Cloud TPU, under Slurm and Open MPI and in
Kubernetes, or told by flags. What they must agree about and no device computes (where the run
lies, whether they were started alike, when they stop) goes over its coordination service.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from vits_jax.config import RunConfig
from vits_jax.errors import RunFailed, UserError

_LOGGER = logging.getLogger(__name__)

JOINING = 300  # seconds that processes wait for the first one, and it for them
WAITING = 1800  # seconds until a process that lives must have come as far as the others
GIVEN_UP = 100  # seconds without a sign of life, after which JAX's runtime ends all processes


class Processes:
    """All processes of a run, seen from one of them.

    Args:
        index: of this process; the first one logs, writes and listens.
        count: of them.
        client: of JAX's coordination service, which only several have.
    """

    def __init__(self, index: int = 0, count: int = 1, client: Any = None):
        self.index, self.count, self.client = index, count, client
        self._uses = itertools.count()

    @property
    def first(self) -> bool:
        """Whether this one is."""
        return self.index == 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.count == 1

    def collect(self, value: str) -> list[str]:
        """The value of each process, by index, on all of them; waits for all.

        Raises:
            RunFailed: one does not come.
        """
        if self.alone:
            return [value]
        use = next(self._uses)
        self.client.key_value_set(_key("collect", use, self.index), value)
        return [self._wait(_key("collect", use, index), index) for index in range(self.count)]

    def meet(self) -> None:
        """Wait for all.

        Before a program's first call, and after what only one process did: what runs over
        several processes may not wait long for one (gloo gives up after 30 s).

        Raises:
            RunFailed: one does not come.
        """
        self.collect("here")

    def of_first(self, make: Callable[[], str]) -> str:
        """What `make` gives on the first process, on all of them.

        Raises:
            UserError: it raised one there.
            RunFailed: it does not come.
        """
        if self.alone:
            return make()
        key = _key("of_first", next(self._uses))
        if self.first:
            try:
                made = make()
            except UserError as error:
                self.client.key_value_set(key, json.dumps({"error": str(error)}))
                raise _common(error) from None
            self.client.key_value_set(key, json.dumps({"made": made}))
            return made
        found = json.loads(self._wait(key, 0))
        if "error" in found:
            raise _common(UserError(found["error"]))
        return str(found["made"])

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A `UserError` that ends the inside on one process ends it on all."""
        error: UserError | None = None
        try:
            yield
        except UserError as raised:
            error = raised
        messages = self.collect("" if error is None else str(error))
        if error is not None:
            raise _common(error)
        for index, message in enumerate(messages):
            if message:
                raise _common(UserError(f"process {index}: {message}"))

    def agree(self, about: Mapping[str, Any]) -> None:
        """Compare what all processes must have alike.

        Args:
            about: of this process, by a name for people; values that JSON holds.

        Raises:
            UserError: another has something else; says which process, and what.
        """
        ours = json.dumps({"host": socket.gethostname(), "about": dict(about)})
        everyone = [json.loads(text) for text in self.collect(ours)]
        first = everyone[0]["about"]
        for index, other in enumerate(everyone):
            for name, value in first.items():
                if other["about"].get(name) != value:
                    raise _common(
                        UserError(
                            f"process {index} on {other['host']} has {name} "
                            f"{other['about'].get(name)}, the first process {value}: start all "
                            "processes with the same command, version and data"
                        )
                    )

    def _wait(self, key: str, index: int) -> str:
        try:
            return str(self.client.blocking_key_value_get(key, WAITING * 1000))
        except jax.errors.JaxRuntimeError as error:
            raise RunFailed(
                f"process {index} did not come as far as process {self.index}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error


ALONE = Processes()


def _common(error: UserError) -> UserError:
    error.common = True
    return error


def _key(*parts: object) -> str:
    return "/".join(map(str, ("vits_jax", *parts)))


@contextlib.contextmanager
def joined(run: RunConfig) -> Iterator[Processes]:
    """The processes of this run; must be entered before any device is used.

    Inside, processes but the first one log warnings alone, under their number.

    Raises:
        UserError: the flags do not say enough.
        RunFailed: the processes do not find one another.
    """
    processes = _join(run)
    if processes.alone:
        yield processes
        return
    _LOGGER.info("%d processes, %s", processes.count, _who(processes.index))
    root = logging.getLogger()
    before = [(handler, handler.formatter) for handler in root.handlers]
    level = root.level
    if not processes.first:
        root.setLevel(logging.WARNING)
        for handler in root.handlers:
            handler.setFormatter(logging.Formatter(f"process {processes.index}: %(message)s"))
    alike = False
    try:
        yield processes
        alike = True
    except (UserError, RunFailed) as error:
        alike = error.common
        raise
    finally:
        root.setLevel(level)
        for handler, formatter in before:
            handler.setFormatter(formatter)
        if alike:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()  # which waits for the others


def _join(run: RunConfig) -> Processes:
    from jax._src import distributed  # JAX has no public door to its coordination service

    if run.num_nodes == 1 or (run.coordinator is None and os.environ.get("SLURM_NTASKS") == "1"):
        return ALONE  # a lone task has all devices of its host
    if not jax.distributed.is_initialized():
        # Who stops a run is `stopping`'s affair: JAX's own listener would take SIGTERM from it.
        jax.config.update("jax_enable_preemption_service", False)
        told = {} if run.coordinator is None else _told(run)
        try:
            jax.distributed.initialize(
                **told, initialization_timeout=JOINING, heartbeat_timeout_seconds=GIVEN_UP
            )
        except Exception as error:
            if run.coordinator is None and any(words in str(error) for words in _NO_CLUSTER):
                return ALONE
            where = run.coordinator or "the first process"
            raise RunFailed(
                f"{where}: the processes of the run did not find one another in {JOINING} s: "
                f"{' '.join(str(error).split())[:200]}: start all of them, where they can reach it "
                "(--num_nodes 1: this one alone)"
            ) from error
    state = distributed.global_state
    return Processes(state.process_id, state.num_processes, state.client)


_NO_CLUSTER = (
    "coordinator_address should be defined",  # no flags, and no cluster that JAX knows
    "must be called before any JAX calls",  # in a notebook, say
)


def _told(run: RunConfig) -> dict[str, Any]:
    """What the flags say."""
    return {
        "coordinator_address": run.coordinator,
        "num_processes": run.num_nodes,
        "process_id": run.node_rank,
        "cluster_detection_method": "deactivate",
    }


def _who(index: int) -> str:
    return f"this is {index}: process {os.getpid()} on {socket.gethostname()}"
