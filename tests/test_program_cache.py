"""Compiled programs that are kept between runs: what is damaged there is not run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from jax._src.lru_cache import LRUCache

from vits_jax import compilation, program_cache

SETTINGS = [
    *("jax_compilation_cache_dir", "jax_compilation_cache_max_size"),
    "jax_persistent_cache_min_compile_time_secs",
]

PROGRAM = """
import jax, logging
import jax.numpy as jnp
import numpy as np
from vits_jax.compilation import jit, use_cache
from vits_jax.programs import Programs

logging.basicConfig(level=logging.INFO, format="%(message)s")
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


def test_what_was_found_and_what_was_added_is_said(tmp_path: Path):
    first, again = compute(tmp_path), compute(tmp_path)
    directory = tmp_path / "vits_jax" / "jax"
    pattern = rf"compiled programs: (\d+) found in {directory}, (\d+) added: it holds [\d.]+ MB"
    (told,), (told_again,) = (re.findall(pattern, run.stderr) for run in (first, again))
    assert (int(told[0]), int(told[1])) == (0, len(list(directory.glob("*-cache"))))
    assert told_again == (told[1], "0")


def test_a_cache_in_a_bucket_is_left_to_jax(tmp_path: Path, monkeypatch):
    """JAX reads and writes it; nothing here takes its name for a local directory's."""
    monkeypatch.chdir(tmp_path)
    local = tmp_path / "gs:" / "bucket" / "cache"
    local.mkdir(parents=True)
    (local / "a-cache").write_bytes(b"program")
    before = {name: jax.config.values[name] for name in SETTINGS}
    try:
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/cache")
        compilation.use_cache()
        compilation.keep(True)
        assert jax.config.values["jax_compilation_cache_dir"] == "gs://bucket/cache"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert [path.name for path in local.iterdir()] == ["a-cache"]


def test_room_is_made_of_what_was_not_used(tmp_path: Path):
    day = 86_400
    for name in "abcd":
        (tmp_path / f"{name}-cache").write_bytes(name.encode() * 100)
    program_cache.seal(tmp_path)
    for name, used in {"a": 9, "b": 1, "c": 2, "d": 3}.items():
        os.utime(tmp_path / f"{name}-cache", (day * used, 0))
    program_cache.remove_damaged(tmp_path, ours=True)  # reads all of them: that is no use
    assert (tmp_path / "b-cache").stat().st_atime == day
    assert program_cache.size(tmp_path) == 400
    assert program_cache.prune(tmp_path, 400) == 0
    assert program_cache.prune(tmp_path, 250) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a-cache", "a-cache.sha256"),
        *("d-cache", "d-cache.sha256"),
    ]


def test_a_filled_cache_can_be_given_to_jax_to_prune(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}-cache").write_bytes(b"program" * 10)
        os.utime(tmp_path / f"{name}-cache", (0, ord(name)))
    program_cache.mark(tmp_path)
    cache = LRUCache(str(tmp_path), max_size=100)
    cache.put("c", b"x" * 20)
    assert sorted(path.name for path in tmp_path.glob("*-cache")) == ["b-cache", "c-cache"]


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


def test_a_digest_that_cannot_be_removed_stops_no_other(tmp_path: Path):
    (tmp_path / "gone-cache.sha256").mkdir()  # in place of one that only its owner may remove
    (tmp_path / "new-cache").write_bytes(b"program")
    program_cache.seal(tmp_path)
    assert (tmp_path / "new-cache.sha256").exists()
