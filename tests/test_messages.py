"""Lines for the user: nobody has to read them for the work to go on."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

MANY = 30_000

# Logs more than a pipe and the queue before it take together.
TALKATIVE = f"""
import logging, os, sys, time
from vits_jax.cli import run
from vits_jax.errors import RunFailed

def work(argv):
    for number in range({MANY}):
        logging.getLogger("work").info("line %06d %s", number, "x" * 100)
    open(argv[0], "w").close()
    while len(argv) > 1 and not os.path.exists(argv[1]):
        time.sleep(0.01)
    raise RunFailed("the last line")

sys.exit(run(work))
"""


def start(*marks: Path, **more) -> subprocess.Popen:
    """It makes the first file when it has said it all, and waits for the second, if any."""
    return subprocess.Popen([sys.executable, "-c", TALKATIVE, *map(str, marks)], text=True, **more)


def test_every_line_in_order_where_somebody_reads(tmp_path: Path):
    with (tmp_path / "log").open("w") as log, start(tmp_path / "done", stderr=log) as process:
        assert process.wait() == 1
    *lines, last = (tmp_path / "log").read_text().splitlines()
    assert [int(line.split()[1]) for line in lines] == list(range(MANY))
    assert last == "failed: the last line"


def test_a_pipe_that_nobody_reads_blocks_nothing(tmp_path: Path):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with start(tmp_path / "done", stderr=writing) as process:
        assert process.wait() == 1
    os.close(writing)
    assert (tmp_path / "done").exists()
    with os.fdopen(reading, errors="replace") as file:
        assert file.readline().startswith("line 000000 ")


def test_a_reader_that_is_gone_stops_nothing(tmp_path: Path):
    reading, writing = os.pipe()
    os.close(reading)
    with start(tmp_path / "done", stderr=writing) as process:
        assert process.wait() == 1
    os.close(writing)
    assert (tmp_path / "done").exists()


def test_a_log_on_a_full_disk_stops_nothing(tmp_path: Path):
    """A limit on the size of files is a disk that is full for this file."""
    with (tmp_path / "log").open("w") as log:
        limit = (50_000, 50_000)
        process = start(
            tmp_path / "done",
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        )
        with process:
            assert process.wait() == 1
    assert (tmp_path / "done").exists()
    assert (tmp_path / "log").stat().st_size == limit[0]


def test_what_was_lost_is_told_when_somebody_reads_again(tmp_path: Path):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with start(tmp_path / "done", tmp_path / "read", stderr=writing) as process:
        os.close(writing)
        while not (tmp_path / "done").exists():  # it has given up waiting for a reader
            time.sleep(0.01)
            assert process.poll() is None
        with os.fdopen(reading, errors="replace") as file:
            first = file.readline()
            (tmp_path / "read").touch()
            *lines, last = [first, *file.read().splitlines()]
        assert process.wait() == 1
    assert last == "failed: the last line"
    kept = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    lost = [int(line[1:].split()[0]) for line in lines if line.startswith("(")]
    assert kept == sorted(kept)
    assert lost
    assert len(kept) + sum(lost) == MANY
