"""Programs in pieces, compiled in the background: which, in which order, and what goes wrong."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.runs import REAL, flags, write_dataset
from vits_jax.compiler import Compiler
from vits_jax.composed import Composed, Function, of_nothing, of_rows, of_shape
from vits_jax.config import Config
from vits_jax.data.batching.batches import Plan, Schedule
from vits_jax.data.batching.buckets import Bucket
from vits_jax.errors import RunFailed
from vits_jax.programs import Programs
from vits_jax.state import Position
from vits_jax.training import ahead

SECONDS = 60  # more than a slow machine needs; no test takes them
SMALL, LARGE, MORE_ROWS = (2, 3, 4), (2, 3, 8), (4, 3, 8)


def composed(traced: list[str]) -> Composed:
    """``sum(sin(x), axis=1)²``, the last step of which does not hang on the length."""

    def first(x: jax.Array) -> jax.Array:
        traced.append(f"first {x.shape}")
        return jnp.sum(jnp.sin(x), axis=1)

    def second(x: jax.Array) -> jax.Array:
        traced.append(f"second {x.shape}")
        return x * x

    return Composed(
        lambda call, x: call("second", call("first", x)),
        {
            "first": Function(jax.jit(first), of_shape),
            "second": Function(jax.jit(second), of_rows),
        },
    )


def test_what_does_not_hang_on_the_shape_is_compiled_once():
    traced: list[str] = []
    programs = Programs(composed(traced), "program")
    for rows, _, length in (SMALL, LARGE, MORE_ROWS, SMALL):
        x = np.linspace(0, 1, rows * length, dtype=np.float32).reshape(rows, length)
        np.testing.assert_allclose(
            programs((rows, 3, length), x), np.sin(x).sum(axis=1) ** 2, rtol=1e-6
        )
    assert traced == [
        *("first (2, 4)", "second (2,)"),
        "first (2, 8)",
        *("first (4, 8)", "second (4,)"),
    ]
    # As one program it is the same function.
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(jax.jit(composed([]))(x), programs(SMALL, x))


def test_before_the_first_call_of_each_shape_all_processes_may_meet():
    called: list[str] = []

    def compose(call: Any, x: Any) -> Any:
        if isinstance(x, np.ndarray):
            called.append(f"run {x.shape}")
        return call("add", x)

    add = Function(jax.jit(lambda x: x + 1), of_shape)
    meet = lambda: called.append("meet")  # noqa: E731
    programs = Programs(Composed(compose, {"add": add}), "program", before_first=meet)
    programs.ahead(SMALL, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    assert programs.ready(SMALL)
    assert not called, "what only compiles waits for nobody"
    for shape in (SMALL, SMALL, LARGE, SMALL):
        programs(shape, np.ones((shape[0], shape[2]), np.float32))
    of_calls = [word for word in called if word == "meet" or word in ("run (2, 4)", "run (2, 8)")]
    # LARGE is traced where it is called: that is one look at its shape, before they meet.
    assert of_calls == [
        *("meet", "run (2, 4)", "run (2, 4)"),
        *("run (2, 8)", "meet", "run (2, 8)"),
        "run (2, 4)",
    ]


class Blocked:
    """In place of a jitted function: each shape is compiled when the test lets it be."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.go = {4: threading.Event(), 8: threading.Event()}
        self.broken: set[int] = set()

    def trace(self, x: Any) -> Any:
        return _Lowered(self, x.shape[1])


class _Lowered:
    out_info = None

    def __init__(self, function: Blocked, length: int):
        self._function, self._length = function, length

    def lower(self) -> Any:
        return self

    def compile(self) -> Any:
        self._function.begun.append(self._length)
        assert self._function.go[self._length].wait(SECONDS)
        if self._length in self._function.broken:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes")
        return self

    def memory_analysis(self) -> None:
        return None

    def __call__(self, x: Any) -> int:
        return self._length


@pytest.fixture
def blocked() -> Any:
    function = Blocked()
    yield function
    for event in function.go.values():
        event.set()


def asked(function: Any, compiler: Compiler) -> Programs:
    programs = Programs(function, "training step", compiler)
    for shape in (SMALL, LARGE):
        programs.ahead(shape, jax.ShapeDtypeStruct((shape[0], shape[2]), jnp.float32))
    return programs


def test_the_first_is_used_while_the_next_is_compiled(blocked: Blocked):
    programs = asked(blocked, Compiler(threads=2))
    blocked.go[4].set()
    assert programs.ready(SMALL)
    assert programs(SMALL, np.ones((2, 4))) == 4
    assert not programs.ready(LARGE, stop=lambda: bool(blocked.begun[1:]))  # it is at it
    blocked.go[8].set()
    assert programs(LARGE, np.ones((2, 8))) == 8
    assert blocked.begun == [4, 8]


def test_what_is_wanted_first_is_compiled_first(blocked: Blocked):
    programs = asked(blocked, Compiler(threads=1))
    blocked.go[8].set()
    assert not programs.ready(LARGE, stop=lambda: blocked.begun == [4])
    blocked.go[4].set()
    assert programs.ready(LARGE)
    assert blocked.begun == [4, 8]


def test_what_cannot_be_compiled_is_known_at_once_and_named(blocked: Blocked):
    compiler = Compiler(threads=2)
    programs = asked(blocked, compiler)
    blocked.broken.add(8)
    blocked.go[8].set()
    assert not programs.ready(LARGE)
    assert isinstance(compiler.failure, RunFailed)
    assert "out of memory in the training step for 2 x 3 x 8 (rows" in str(compiler.failure)
    assert blocked.begun[0] == 4  # which the run would have met before
    with pytest.raises(RunFailed, match="2 x 3 x 8"):
        programs(LARGE, np.ones((2, 8)))


def test_nothing_is_begun_after_the_end(blocked: Blocked):
    compiler = Compiler(threads=1)
    programs = asked(blocked, compiler)
    assert not programs.ready(SMALL, stop=lambda: blocked.begun == [4])
    compiler.close()
    blocked.go[4].set()
    assert programs.ready(SMALL)
    assert blocked.begun == [4]


def test_nobody_waits_for_what_was_given_up(blocked: Blocked, caplog: pytest.LogCaptureFixture):
    """Neither after the end, nor after a failure of something else; nor is it said to be there."""
    caplog.set_level(logging.INFO)
    compiler = Compiler(threads=1)
    programs = asked(blocked, compiler)
    assert not programs.ready(SMALL, stop=lambda: blocked.begun == [4])
    compiler.close()
    blocked.go[4].set()
    with pytest.raises(RuntimeError, match="closed"):
        programs(LARGE, np.ones((2, 8)))
    assert "compiled all there is" not in caplog.text
    another = Blocked()
    compiler = Compiler(threads=1)
    programs = asked(another, compiler)
    compiler.fail(RunFailed("something else"))
    with pytest.raises(RunFailed, match="something else"):
        programs(LARGE, np.ones((2, 8)))
    another.go[4].set()
    another.go[8].set()


def test_memory_is_that_of_the_pieces_one_after_another():
    """Two numbers for each of 1,000: kept while the second piece runs, which gives a third."""
    kilobytes = 4  # of 1,000 numbers
    double = Function(jax.jit(lambda x: (x + 1, x + 2)), of_shape)
    last = Function(jax.jit(lambda x, y: x * y), of_nothing)

    def compose(call: Any, x: Any) -> Any:
        return call("last", *call("double", x))

    programs = Programs(Composed(compose, {"double": double, "last": last}), "program")
    programs.ahead(SMALL, jnp.ones(1000, jnp.float32))
    assert programs.ready(SMALL)
    needs = programs.needs(SMALL)
    assert needs is not None
    assert needs.bytes == 1000 * kilobytes * 4  # x, both, and what comes of them


# A run


class Recorded:
    """In place of programs, and of an evaluator."""

    def __init__(self, into: list[Any], every: int = 1):
        self._into, self.every = into, every

    def ahead(self, *arguments: Any) -> None:
        self._into.append(arguments[0] if len(arguments) > 1 else "evaluator")


@pytest.mark.parametrize("every", [2, 5])
@pytest.mark.parametrize("per_epoch", [5, 2])
@pytest.mark.parametrize("end", [1, 3, 4, 5, 40])
def test_a_run_asks_for_what_it_will_meet_in_that_order(
    monkeypatch: pytest.MonkeyPatch, per_epoch: int, end: int, every: int
):
    """An evaluator that is due after some epochs among it."""
    buckets = (Bucket(8, 16, 2), Bucket(8, 24, 2), Bucket(16, 24, 2))
    members = tuple(np.arange(4) + 4 * i for i in range(3))
    plan = Plan(buckets, 4, 1, members, Schedule((2, 2, 1), (False,) * 3, 0), 0.0, 0.0)
    for name in ("abstract_batch", "abstract_copy", "abstract_rates"):
        monkeypatch.setattr(ahead, name, lambda *_: None)
    found: list[Any] = []
    recorded: Any = Recorded(found, every)
    ahead.compile_ahead(
        *cast(Any, (Config(), None, plan, per_epoch, Position(), float(end), None)),
        recorded,
        [recorded],
    )
    expected: list[Any] = []
    for epoch in range(-(-end // per_epoch)):
        if epoch == 2 and end >= every * per_epoch:
            expected.append("evaluator")
        if epoch == 2:  # whatever else it may meet in epochs of which it trains a part
            expected += [bucket.shape for bucket in buckets]
            break
        batches = plan.epoch(epoch).buckets[: min(per_epoch, end - epoch * per_epoch)]
        expected += [buckets[index].shape for index in batches]
        if epoch == 1 and every == 2 and end >= 2 * per_epoch:
            expected.append("evaluator")
    assert list(dict.fromkeys(found)) == list(dict.fromkeys(expected))


@pytest.mark.slow
def test_a_signal_is_served_while_the_step_is_compiled(tmp_path: Path):
    """The run ends with what it has, and the process although XLA is in the middle of it."""
    run_dir = tmp_path / "run"
    argv = flags(write_dataset(tmp_path / "data"), run_dir, **{**REAL, "devices": 1}, max_steps=3)
    command = [sys.executable, "-u", "-m", "vits_jax.train", *argv]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("memory: "):
                process.send_signal(signal.SIGTERM)
        code = process.wait(SECONDS)
    assert code == 128 + signal.SIGTERM, "".join(lines)
    assert "compiled the training step" not in "".join(lines)
    assert any(line.startswith("stopped by SIGTERM after 0 steps") for line in lines)
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["0"]


LAST_WORDS = """
import sys
from vits_jax import cli, ending
from vits_jax.errors import RunFailed

def command(argv):
    ending.not_waited_for(lambda: True)
    raise {error}

sys.exit(cli.run(command))
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [("RunFailed('no room')", "failed: no room\n"), ("KeyError('x')", "KeyError: 'x'\n")],
)
def test_what_a_process_says_last_is_not_lost(error: str, said: str):
    """Although it does not wait for what is at work."""
    ended = subprocess.run(
        [sys.executable, "-c", LAST_WORDS.format(error=error)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith(said)
    assert ended.stderr.count("Traceback") == ("KeyError" in said)
