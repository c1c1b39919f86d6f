"""The faults of `torture`, each a generator of what happened."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools.torture_bench import (
    STEPS,
    Bench,
    Command,
    Event,
    copy,
    dataset_digest,
    flip,
    state_digest,
    steps,
    workers,
)
from vits_jax.checkpoints import store
from vits_jax.checkpoints.digests import Damaged
from vits_jax.errors import UserError

_SAME = "went on to the same end, bit for bit"
_WORSE = "another end than undisturbed"


def kill(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """SIGKILL at any moment: while it starts, loads, trains, saves, validates."""
    run_dir, killed = bench.new(), 0
    while killed < times:
        command, before = bench.train(run_dir, "--log_every_n_steps=1"), _newest(run_dir)
        if random.random() < 0.25:
            _sleep_within(command, 30 * float(random.random()))
        elif _saves(command, run_dir, after=before):
            _sleep_within(command, bench.moment * float(random.random()))
        if command.process.poll() is None:
            command.signal(signal.SIGKILL)
            killed += 1
            yield Event(_SAME, _steps_lost(command, run_dir))
        elif command.ends() != 0:
            yield Event(f"exit {command.process.returncode}: {command.last_line()}", bad=True)
            return
        if _newest(run_dir) == STEPS:
            if state_digest(run_dir) != bench.whole:
                yield Event(_WORSE, bad=True, times=0)
            run_dir = bench.new()
    yield bench.finish(run_dir, lambda fine: _end(fine, times=0))


def _end(fine: bool, happened: str = _SAME, lost: str = "nothing", times: int = 1) -> Event:
    return Event(happened if fine else _WORSE, lost, bad=not fine, times=times)


def _sleep_within(command: Command, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    command.until(lambda: time.monotonic() >= deadline)


def _newest(run_dir: Path) -> int:
    return max(steps(run_dir), default=0)


def _saves(command: Command, run_dir: Path, after: int) -> bool:
    """Wait for a checkpoint later than `after`; False if the command ends without."""
    return command.until(lambda: _newest(run_dir) > after)


def _has_workers(command: Command) -> bool:
    return command.until(lambda: bool(workers(command.process.pid)))


def _steps_lost(command: Command, run_dir: Path) -> str:
    """Steps that were trained and are not saved."""
    trained = [int(found) for found in re.findall(r"^step (\d+)  ", command.text(), re.MULTILINE)]
    lost = max(0, max(trained, default=0) - _newest(run_dir))
    return f"{lost} step{'s' * (lost != 1)}" if lost else "nothing"


def kill_preparing(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """SIGKILL in a preparation, several times, then one that is left alone."""
    start = time.monotonic()
    bench.preprocess(bench.scratch / "timed").ends()
    seconds = time.monotonic() - start
    output = bench.scratch / "prepared"
    for _ in range(times):
        command = bench.preprocess(output)
        _sleep_within(command, seconds * float(random.random()))
        command.signal(signal.SIGKILL)
        yield Event("the next one went on, to the same dataset", "what was not on the disk")
    fine = bench.preprocess(output).clear(0) and dataset_digest(output) == bench.prepared
    if not fine:
        yield Event("another dataset than undisturbed", bad=True, times=0)


def kill_compiling(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """SIGKILL while the step compiles for the first time."""
    run_dir, cache = bench.new(), bench.scratch / "cold"
    for _ in range(times):
        command = bench.train(run_dir, cache=cache)
        if command.says("shapes to compile"):
            _sleep_within(command, 20 * float(random.random()))
        command.signal(signal.SIGKILL)
        yield Event(_SAME)
    yield bench.finish(run_dir, lambda fine: _end(fine, times=0))


_KILLED_VALIDATING = """
import os, signal
from vits_jax.training.validation import Validation
Validation.losses = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_validating(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """SIGKILL at the beginning of a validation: its epoch is saved already."""
    run_dir = bench.new()
    for _ in range(times):
        command = bench.train(run_dir, "--log_every_n_steps=1", before=_KILLED_VALIDATING)
        if command.ends() == 0:
            break
        yield Event(_SAME, _steps_lost(command, run_dir))
    yield bench.finish(run_dir, lambda fine: _end(fine, times=0))


def terminate(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """SIGTERM at a random moment of training."""
    run_dir = bench.new()
    for _ in range(times):
        command = bench.train(run_dir, "--log_every_n_steps=1")
        if not command.says("\nstep "):
            break  # it was at its end
        _sleep_within(command, bench.moment * float(random.random()))
        command.signal(signal.SIGTERM)
        code = command.process.returncode
        fine = code in (143, 0)
        yield Event(f"exit {code}, saved", _steps_lost(command, run_dir), bad=not fine)
    yield bench.finish(run_dir, lambda fine: _end(fine, times=0))


# A disk of one's own


@contextlib.contextmanager
def _small_disk(bench: Bench) -> Iterator[Path | None]:
    """A tmpfs with room for a few checkpoints; None where none can be mounted."""
    whole = next(bench.scratch.glob("run*/checkpoints/*"))
    size = 8 * sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    disk = bench.scratch / "disk"
    disk.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    for chunk in (1 << 20, 1 << 12):  # down to the last page
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(chunk)):
                pass
    return filler


_LEFT_OUT = Event("left out: it takes root to mount a small disk", times=0)


def _full_disk(bench: Bench) -> Iterator[tuple[Command, Path, Path]]:
    """A run on a disk that fills up after its first saves, and the file that fills it; none
    where no disk can be mounted."""
    with _small_disk(bench) as disk:
        if disk is not None:
            run_dir = bench.new(disk)
            command = bench.train(run_dir, "--log_every_n_steps=1")
            _saves(command, run_dir, after=1)
            yield command, run_dir, _fill(disk)


def full_for_a_while(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """A disk that fills up while the run trains, and gets room again."""
    happened = f"warned, trained on, saved when there was room; {_SAME}"
    for _ in range(times):
        event = _LEFT_OUT
        for command, run_dir, filler in _full_disk(bench):
            warned = command.says("could not be saved") and command.says("events cannot be written")
            filler.unlink()
            fine = command.clear(0) and warned and state_digest(run_dir) == bench.whole
            event = _end(fine, happened)
        yield event


def full_to_the_end(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """A disk that stays full until the run has ended."""
    for _ in range(times):
        event = _LEFT_OUT
        for command, run_dir, filler in _full_disk(bench):
            clear = command.clear(1)
            lost = _steps_lost(command, run_dir)
            filler.unlink()
            line = re.sub(r"\S*/", "…/", command.last_line())[:60]
            happened = f"exit 1, one line ({line}…); started again it {_SAME}"
            again = bench.finish(run_dir, lambda fine: _end(fine))
            event = _end(clear and not again.bad, happened, lost)
        yield event


def read_only(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """A directory of checkpoints that refuses writing for a while; and one from the start."""
    for _ in range(times):
        run_dir = bench.new()
        command = bench.train(run_dir, "--log_every_n_steps=1")
        _saves(command, run_dir, after=1)
        if not _immutable(run_dir / store.DIRECTORY, True):
            command.signal(signal.SIGKILL)
            yield Event("left out: it takes root, and a file system with attributes", times=0)
            return
        warned = command.says("could not be saved")
        _immutable(run_dir / store.DIRECTORY, False)
        fine = command.clear(0) and warned and state_digest(run_dir) == bench.whole
        yield _end(fine, f"warned, trained on, saved when it could; {_SAME}")
    run_dir = bench.new()
    run_dir.mkdir()
    _immutable(run_dir, True)
    clear = bench.train(run_dir).clear(2)
    _immutable(run_dir, False)
    yield Event("from the start: exit 2, one line", bad=not clear)


def _immutable(directory: Path, on: bool) -> bool:
    command = ["chattr", "+i" if on else "-i", str(directory)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# Damage


def flip_checkpoints(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """One bit of one file of the newest step; the step before is used."""
    whole = next(path for path in bench.scratch.glob("run*") if len(steps(path)) > 1)
    run_dir = copy(whole, bench.scratch / "flipped")
    newest = store.step_directories(run_dir / store.DIRECTORY)[-1]
    files = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size]
    kept = {path: path.read_bytes() for path in files}
    for _ in range(times):
        path = files[int(random.integers(len(files)))]
        flip(path, random)
        try:
            used, _, damaged = store.newest_whole(run_dir)
        except UserError as error:
            yield Event(f"refused: {error}", bad=True)
        else:
            named = all(isinstance(error, Damaged) for error in damaged.values())
            if used == newest and path.name == "metrics.json":
                yield Event("a number that decides what is kept was not used")
            elif used != newest and named and str(path) in str(damaged[newest]):
                yield Event("the file is named, the step before is used", "1 step")
            else:
                yield Event(f"{path.name}: restored as if it were whole", bad=True)
        path.write_bytes(kept[path])
    flip(newest / "_CHECKPOINT_METADATA", random)
    command = bench.train(run_dir)
    fine = command.clear(0) and state_digest(run_dir) == bench.whole
    moved = "is moved to" in command.text()
    yield _end(fine and moved, f"moved aside; {_SAME}", "1 step")


def flip_dataset(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """One bit of the prepared audio: what is read is what was written, or is named."""
    data = copy(bench.data, bench.scratch / "damaged")
    files = [path for path in next(data.glob("audio-*")).rglob("*") if path.is_file()]
    for _ in range(10 * times):
        path = files[int(random.integers(len(files)))]
        content = path.read_bytes()
        if not content:
            continue
        flip(path, random)
        try:
            same = dataset_digest(data) == bench.prepared
        except UserError as error:
            one_line = "\n" not in str(error)
            yield Event("named, with what to do", bad=not one_line)
        else:
            yield Event("read as it was written" if same else "other samples", bad=not same)
        path.write_bytes(content)


def flip_programs(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """One bit of a compiled program that is kept between runs."""
    for _ in range(min(times, 3)):
        cache = copy(bench.cache, bench.scratch / "flipped-cache")
        programs = sorted(cache.glob("*-cache"), key=lambda path: path.stat().st_size)
        # The largest is the training step, and compiling it again takes minutes.
        flip(programs[int(random.integers(len(programs) - 1))], random)
        run_dir = bench.new()
        command = bench.train(run_dir, cache=cache)
        fine = command.clear(0) and state_digest(run_dir) == bench.whole
        yield _end(fine and "damaged" in command.text(), f"named, compiled again; {_SAME}")


# Others


_JUMPING = """
import random, time
_now = time.time
time.time = lambda: _now() + random.uniform(-1e6, 1e6)
"""


def clock(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """A clock that tells any time within days."""
    for _ in range(min(times, 3)):
        run_dir = bench.new()
        fine = bench.train(run_dir, before=_JUMPING).clear(0)
        yield _end(fine and state_digest(run_dir) == bench.whole, _SAME)


def second_start(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """The same command while the first one trains."""
    run_dir = bench.new()
    first = bench.train(run_dir, "--log_every_n_steps=1")
    first.says("run directory: ")
    for _ in range(times):
        _sleep_within(first, bench.moment * float(random.random()))
        if first.process.poll() is not None:
            break
        first.process.send_signal(signal.SIGSTOP)  # it cannot end before the second has started
        second = bench.train(run_dir)
        clear = second.clear(2) and f"process {first.process.pid} on " in second.last_line()
        yield Event("exit 2, one line that names the first", bad=not clear)
        first.process.send_signal(signal.SIGCONT)
    fine = first.clear(0) and state_digest(run_dir) == bench.whole
    yield _end(fine, "the first one was not disturbed", times=0)


def kill_worker(bench: Bench, random: np.random.Generator, times: int) -> Iterator[Event]:
    """SIGKILL to one of the processes that decode."""
    for number in range(times):
        output = bench.scratch / f"workers{number}"
        command = bench.preprocess(output)
        _has_workers(command)
        _sleep_within(command, 2 * float(random.random()))
        spawned = workers(command.process.pid)
        if spawned:
            with contextlib.suppress(ProcessLookupError):
                os.kill(spawned[int(random.integers(len(spawned)))], signal.SIGKILL)
        if command.clear(0):
            happened = "went on, the same dataset"
        else:
            clear = command.clear(1) and command.last_line()
            happened = "exit 1, one line; started again the same dataset"
            if not clear or not bench.preprocess(output).clear(0):
                yield Event(f"no clear end: {command.last_line()}", bad=True)
                continue
        yield Event(happened, bad=dataset_digest(output) != bench.prepared)
        shutil.rmtree(output)
