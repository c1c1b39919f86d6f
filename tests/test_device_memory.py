"""Memory that does not suffice: what there is, what was asked for, one line that says both."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vits_jax import device_memory
from vits_jax.errors import RunFailed
from vits_jax.programs import Programs

TERABYTES = (10**7, 10**6)  # 40 TB in float32: no machine has them


def grow(x: jax.Array) -> jax.Array:
    return jnp.ones(TERABYTES) * x


def test_a_program_that_asks_for_too_much():
    compiled = Programs(jax.jit(grow), "training step")
    expected = (
        r"out of memory in the training step for 32 x 150 x 900 \(rows x phonemes x frames\): "
        r"it asks for 40000\.0 GB, the device \(cpu\) has \d+\.\d GB: lower --batch-size .*"
        r"--batch-frames.* --max-frames or --max-phoneme-ids"
    )
    with pytest.raises(RunFailed) as failed:
        jax.block_until_ready(compiled((32, 150, 900), jnp.float32(1)))
    assert re.fullmatch(expected, str(failed.value))


def test_results_that_are_waited_for():
    """Which program it was is not known any more: the largest is named."""
    compiled = Programs(jax.jit(lambda x: 2 * x), "validation step")
    with (
        pytest.raises(RunFailed, match=r"memory in the validation step: .*for 40000\.0 GB"),
        compiled.waiting(),
    ):
        jnp.ones(TERABYTES).block_until_ready()
    for rows in (4, 8, 2):
        compiled((rows, 20, 60), jnp.ones(rows))
    with pytest.raises(RunFailed, match="the validation step for 8 x 20 x 60 "), compiled.waiting():
        jnp.ones(TERABYTES).block_until_ready()


class _NotCompiled:
    """In place of a jitted function: what XLA says on machines that are not here."""

    def __init__(self, message: str):
        self._message = message

    out_info = None

    def trace(self, *arguments: object) -> _NotCompiled:
        return self

    def lower(self) -> _NotCompiled:
        return self

    def compile(self) -> None:
        raise jax.errors.JaxRuntimeError(self._message)


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory allocating 12884901888 bytes.", "12.9 GB"),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12.00GiB.", "12.9 GB"),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
         "hbm. Used 23.66G of 15.75G hbm. Exceeded hbm capacity by 7.91G.", "25.4 GB"),
        ("RESOURCE_EXHAUSTED: Failed to allocate request for 1.50MiB (1572864B) on device ordinal "
         "0: out of memory", None),
    ],
)  # fmt: skip
def test_memory_that_runs_out_while_compiling(message: str, asked: str | None):
    with pytest.raises(RunFailed) as failed:
        Programs(_NotCompiled(message), "training step")((8, 20, 60))
    said = str(failed.value)
    assert said.startswith("out of memory in the training step for 8 x 20 x 60 (rows x")
    assert (f": it asks for {asked}, the device" in said) if asked else ("asks" not in said)
    assert "\n" not in said


@pytest.mark.parametrize(
    "message",
    [
        "INTERNAL: something else",
        "RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 300000, available 232448",
    ],
)
def test_other_errors_stay_what_they_are(message: str):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message[:20]):
        Programs(_NotCompiled(message), "training step")((8, 20, 60))


def test_what_the_host_lacks_is_told_as_well():
    with (
        pytest.raises(RunFailed, match=r"out of memory in speaking: the device .*: whisper"),
        device_memory.explained(lambda: ("speaking", None), "whisper"),
    ):
        raise MemoryError


def test_what_a_program_takes_is_counted():
    def needs(function: jax.stages.Wrapped) -> int:
        programs = Programs(function, "program")
        programs.ahead((8, 20, 60), jnp.ones(1000))
        assert programs.ready((8, 20, 60))
        found = programs.needs((8, 20, 60))
        assert found is not None and found.device == jax.devices()[0]
        return found.bytes

    # The result lies where the argument was.
    assert needs(jax.jit(lambda x: x + 1, donate_argnums=0)) == 4000
    assert needs(jax.jit(lambda x: x + 1)) == 8000


# What there is


@pytest.mark.parametrize(
    ("own", "files", "limits"),
    [
        ("0::/", {"memory.max": "max\n"}, []),
        ("0::/", {"memory.max": "5000\n"}, [5000]),
        ("0::/job/step", {"memory.max": "9000\n", "job/step/memory.max": "max\n",
                          "job/memory.max": "7000\n"}, [7000, 9000]),
        ("5:cpu:/\n4:memory:/job", {"memory/memory.limit_in_bytes": "9223372036854771712\n",
                                    "memory/job/memory.limit_in_bytes": "6000\n",
                                    "memory.max": "1\n"}, [6000, 9223372036854771712]),
        ("", {}, []),
    ],
)  # fmt: skip
def test_what_a_container_grants(tmp_path: Path, monkeypatch, own, files, limits):
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(device_memory, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(device_memory, "_OWN_CGROUPS", tmp_path / "own")
    assert list(device_memory._cgroup_limits()) == limits
    if limits:
        assert device_memory.capacity(jax.devices("cpu")[0]) == min(limits)


def test_what_a_shell_grants():
    code = (
        "import jax, resource; from vits_jax import device_memory; device = jax.devices()[0]; "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33)); "
        "print(device_memory.capacity(device))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(said.stdout) <= 1 << 33
