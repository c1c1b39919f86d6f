"""Compiled programs that are kept between runs: what is damaged there is not run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from vits_jax import program_cache

PROGRAM = """
import jax, logging
import jax.numpy as jnp
import numpy as np
from vits_jax.compilation import jit, use_cache
from vits_jax.compiler import Programs

logging.basicConfig()
use_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

def function(x):
    for i in range(30):
        x = jnp.sin(x @ x) + jnp.float32(i)
    return x

x = np.full((8, 8), 0.1, np.float32)
print(np.asarray(Programs(jit(function), "program")((8, 8), x)).tobytes().hex())
"""


def compute(cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_flipped_bit_is_named_and_compiled_again(tmp_path: Path):
    expected = compute(tmp_path)
    assert expected.returncode == 0, expected.stderr
    directory = tmp_path / "vits_jax" / "jax"
    (program,) = directory.glob("jit_function-*-cache")
    content, random = program.read_bytes(), np.random.default_rng(0)
    for _ in range(3):
        damaged = bytearray(content)
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        program.write_bytes(damaged)
        again = compute(tmp_path)
        assert (again.returncode, again.stdout) == (0, expected.stdout)
        assert f"{program}: damaged: it is removed and compiled again" in again.stderr
        assert "damaged" not in compute(tmp_path).stderr


def test_what_is_removed(tmp_path: Path, caplog):
    caplog.set_level(logging.WARNING)

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    for name in ("a-cache", "b-cache"):
        (tmp_path / name).write_bytes(b"program")
    program_cache.seal(tmp_path)
    (tmp_path / "c-cache").write_bytes(b"half a prog")  # by a process that was killed
    program_cache.remove_damaged(tmp_path, ours=False)
    assert "c-cache" in names(), "another program's, for all we know"
    program_cache.remove_damaged(tmp_path, ours=True)
    assert names() == ["a-cache", "a-cache.sha256", "b-cache", "b-cache.sha256"]
    (tmp_path / "a-cache").write_bytes(b"pr0gram")
    program_cache.remove_damaged(tmp_path, ours=False)
    assert names() == ["b-cache", "b-cache.sha256"]
    assert caplog.text.count("damaged") == 1
    (tmp_path / "b-cache").unlink()  # JAX makes room
    program_cache.seal(tmp_path)
    assert names() == []
