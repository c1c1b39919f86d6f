"""A store while it grows: one process writes it, and the next goes on where one was stopped."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vits_jax.data.corpora.audio_files import Recording
from vits_jax.data.storage import building, lock, shards
from vits_jax.data.storage import store as stores
from vits_jax.data.unusable import Refused
from vits_jax.errors import RunFailed, UserError

MARK, SETTINGS = "0123456789abcdef", "fedcba9876543210"
NAME = f"audio-{MARK}"
UNFINISHED = f".{NAME}.{SETTINGS}.unfinished"
COUNT = 9


def recording(number: int) -> Recording | Refused:
    """The fourth is refused."""
    if number == 3:
        return Refused("silent", "silent: all the same")
    samples = np.random.default_rng(number).integers(-3000, 3000, 1000 + number)
    return Recording(samples.astype(np.int16), 8000 + number, number, number / 4)


def digests(count: int = COUNT) -> list[bytes]:
    return [bytes([number]) * 32 for number in range(count)]


class Source:
    """Recordings, of which it is noted which were asked for."""

    def __init__(self, stop: int = COUNT, fault: BaseException | None = None) -> None:
        self.stop, self.fault, self.asked = stop, fault, []

    def __call__(self, start: int) -> Iterator[Recording | Refused]:
        for number in range(start, self.stop):
            self.asked.append(number)
            yield recording(number)
        if self.fault is not None:
            raise self.fault


def build(parent: Path, source: Source, workplace: Path | None = None) -> list[stores.Outcome]:
    return building.build(parent / NAME, 22050, source, SETTINGS, digests(), workplace)


def assert_is_whole(parent: Path) -> None:
    """There, with every record as it was given, and nothing beside it."""
    assert os.listdir(parent) == [NAME]
    store = stores.open_store(parent / NAME)
    assert sorted(path.name for path in store.directory.iterdir()) == [
        *("digests.npy", "facts.npy", "index.json", "samples.npy", "speech"),
    ]
    assert store.outcomes == [0, 1, 2, recording(3), 3, 4, 5, 6, 7]
    assert [bytes(digest) for digest in store.digests] == digests()
    given = [r for r in map(recording, range(COUNT)) if isinstance(r, Recording)]
    assert store.facts.tolist() == [tuple(r)[1:] for r in given]
    for number, expected in enumerate(given):
        np.testing.assert_array_equal(store.audio(number), expected.samples)


@pytest.fixture(params=["one file", "files of one record", "files of some"])
def sizes(request, monkeypatch) -> None:
    limit = {"one file": 1 << 20, "files of one record": 1, "files of some": 5000}
    monkeypatch.setattr(shards, "SHARD_BYTES", limit[request.param])


@pytest.mark.parametrize("stop", range(COUNT + 1))
def test_interrupted_anywhere_it_goes_on_there(tmp_path: Path, sizes, stop: int):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Source(stop, KeyboardInterrupt()))
    assert os.listdir(tmp_path) == ([UNFINISHED] if stop else [])
    source = Source()
    build(tmp_path, source)
    assert source.asked == list(range(stop, COUNT))
    assert_is_whole(tmp_path)


def test_what_cannot_be_used_is_not_kept(tmp_path: Path):
    with pytest.raises(UserError):
        build(tmp_path, Source(5, UserError("this recording has to be another")))
    assert not os.listdir(tmp_path)


PROGRAM = """
import logging, sys
from pathlib import Path
from tests.data.storage import test_building as t
from vits_jax.data.storage import shards
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
logging.getLogger("absl").setLevel(logging.CRITICAL)
shards.SHARD_BYTES = int(sys.argv[2])
class Noisy(t.Source):
    def __call__(self, start):
        for result in super().__call__(start):
            print(self.asked[-1], flush=True)
            if len(sys.argv) > 3:  # go on when told to
                sys.stdin.readline()
            yield result
t.build(Path(sys.argv[1]), Noisy())
print("done", flush=True)
"""


def start(parent: Path, limit: int, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(parent), str(limit), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def waiting_for(process: subprocess.Popen[str], parent: Path) -> str:
    who = f"process {process.pid} on {socket.gethostname()}"
    return f"waiting for {who}, which works in {parent / UNFINISHED}"


def test_killed_it_goes_on_from_its_last_whole_file(tmp_path: Path):
    process = start(tmp_path, 4000, "step by step")  # a file is full with two records
    for number in range(6):
        assert read(process) == str(number)
        if number < 5:
            go_on(process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert os.listdir(tmp_path) == [UNFINISHED]
    torn = shards.shard_path(tmp_path / UNFINISHED / "store", 2)
    torn.write_bytes(os.urandom(1000))  # what may lie there of a file without its part
    source = Source()
    build(tmp_path, source)
    assert source.asked == [5, 6, 7, 8]  # 0 and 1, 2 with the refused one and 4 were whole
    assert_is_whole(tmp_path)


def test_two_processes_write_one_store_and_one_of_them_waits(tmp_path: Path):
    first = start(tmp_path, 1, "step by step")
    assert read(first) == "0"
    second = start(tmp_path, 1)
    assert read(second) == waiting_for(first, tmp_path)
    for number in range(1, COUNT):
        go_on(first)
        assert read(first) == str(number)
    go_on(first)
    assert read(first) == "done"
    assert read(second) == "done"  # without a recording of its own
    assert [first.wait(60), second.wait(60)] == [0, 0]
    assert_is_whole(tmp_path)


def test_who_waits_for_a_killed_process_goes_on_in_its_place(tmp_path: Path):
    first = start(tmp_path, 1, "step by step")
    for number in range(4):
        assert read(first) == str(number)
        go_on(first)
    assert read(first) == "4"  # 3 is refused, and waits for the next record
    second = start(tmp_path, 1)
    assert read(second) == waiting_for(first, tmp_path)
    first.kill()
    first.wait()
    assert read(second) == "3"
    assert second.wait(60) == 0
    assert_is_whole(tmp_path)


def test_without_locks_every_process_writes_for_itself(tmp_path: Path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", none)
        other = tmp_path / f"{UNFINISHED}.{socket.gethostname()}.{os.getppid()}"
        other.mkdir()  # a living process's
        build(tmp_path, Source())
        assert other.is_dir()
        other.rmdir()
    assert_is_whole(tmp_path)


def test_a_lock_passes_on(tmp_path: Path):
    path = tmp_path / "place" / "lock"
    with lock.alone(path) as held:
        assert held
        with lock.alone(path, wait=False) as second:
            assert not second
    assert not path.exists()
    with lock.alone(path, wait=False) as free:
        assert free
    assert not path.exists()


def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path):
    alive = tmp_path / f".{NAME}.{socket.gethostname()}.{os.getppid()}"
    elsewhere = tmp_path / f".{NAME}.another-machine.1"
    alive.mkdir()
    elsewhere.mkdir()
    build(tmp_path, Source())
    assert alive.is_dir()
    assert elsewhere.is_dir()


@pytest.mark.parametrize("seed", range(12))
def test_damage_in_an_unfinished_store_is_done_again(tmp_path: Path, monkeypatch, seed: int):
    monkeypatch.setattr(shards, "SHARD_BYTES", 4000)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Source(8, KeyboardInterrupt()))
    rng = random.Random(seed)
    parts = sorted((tmp_path / UNFINISHED / "parts").iterdir())
    assert len(parts) == 4
    part = rng.choice(parts)
    content = bytearray(part.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    part.write_bytes(content)
    source = Source()
    build(tmp_path, source)
    assert source.asked[0] in (0, 2, 5, 7, 8)
    assert_is_whole(tmp_path)


def test_it_may_grow_on_another_file_system(tmp_path: Path):
    workplace = Path("/dev/shm") / f"vits_jax-{os.getpid()}"
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    try:
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path, Source(6, KeyboardInterrupt()), workplace)
        assert os.listdir(workplace) == [UNFINISHED]
        source = Source()
        build(tmp_path, source, workplace)
        assert source.asked == [6, 7, 8]
        assert os.listdir(workplace) == []
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    assert_is_whole(tmp_path)


FULL = """
import resource, sys
from pathlib import Path
from tests.data.storage import test_building as t
from vits_jax.data.storage import shards
from vits_jax.errors import RunFailed
shards.SHARD_BYTES = 4000
resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, resource.RLIM_INFINITY))  # bytes
class Longer(t.Source):
    def __call__(self, start):
        for result in super().__call__(start):
            yield result._replace(samples=t.np.tile(result.samples, 40)) if start else result
try:
    t.build(Path(sys.argv[1]), Longer())
except RunFailed as error:
    print(error)
"""


def test_where_nothing_more_can_be_written_what_is_done_is_kept(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Source(5, KeyboardInterrupt()))
    # The system refuses the longer records that come now.
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    shard = shards.shard_path(tmp_path / UNFINISHED / "store", 1)
    assert done.stdout == (
        f"{shard} cannot be written: write() failed: File too large: "
        "run it again when it can, and it goes on where it stopped\n"
    )
    assert not shard.exists()
    source = Source()
    build(tmp_path, source)
    assert source.asked == [5, 6, 7, 8]
    assert_is_whole(tmp_path)


def test_recordings_of_other_runs_are_found_and_then_removed(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Source(6, KeyboardInterrupt()))
    (tmp_path / "stores").mkdir()
    with building.earlier(tmp_path, tmp_path / "stores", SETTINGS) as found:
        assert list(found) == digests(6)
        with building.earlier(tmp_path, tmp_path / "stores", SETTINGS) as locked:
            assert locked == {}
        for number in range(6):
            got, expected = found[digests()[number]].get(), recording(number)
            if isinstance(expected, Refused):
                assert got == expected
            else:
                np.testing.assert_array_equal(got.samples, expected.samples)
                assert got[1:] == expected[1:]
        building.remove_unfinished(tmp_path, SETTINGS)  # it is in use
        assert (tmp_path / UNFINISHED).is_dir()
    with building.earlier(tmp_path, tmp_path / "stores", "0" * 16) as others:
        assert others == {}
    building.remove_unfinished(tmp_path, "0" * 16)
    assert (tmp_path / UNFINISHED).is_dir()
    building.remove_unfinished(tmp_path, SETTINGS)
    assert os.listdir(tmp_path) == ["stores"]


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("open() failed: No space left on device; opening x")

    monkeypatch.setattr(shards, "ArrayRecordWriter", lambda *_: type("W", (), {"write": refuse})())
    with pytest.raises(
        RunFailed, match="cannot be written: open.. failed: No space left on device: run"
    ):
        shards.Shard(tmp_path / "x").add(np.zeros(3, np.int16))
