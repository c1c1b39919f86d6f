"""How every test runs: eight virtual CPU devices, strict promotion, one compilation cache."""

from __future__ import annotations

import gc
import os
import signal
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = os.environ.get("VITS_JAX_TEST_PLATFORM", "cpu")
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

# A shell's background job ignores SIGINT, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# All before jax, TensorFlow Datasets or torch are imported, and inherited by the commands that
# tests start. Compiling is most of the time that the tests take: repeated runs read the cache.
os.environ["JAX_PLATFORMS"] = "cpu" if PLATFORM == "cpu" else "cuda,cpu"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 * 1024**3)  # with a limit, writes are locked
# The models are tiny: LLVM without optimisation, each kernel through one emitter and in one
# piece takes half the time to compile (docs/log.md).
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # A flag that jaxlib does not know ends the process, and 0.11 has lost this one.
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib") < "0.11" else []),
    ]
)
os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // WORKERS))  # torch's

import jax

# Not through XLA_FLAGS, which commands would inherit: a user's machine has one CPU device.
jax.config.update("jax_num_cpu_devices", 8)


# Tracing makes millions of objects that live: looking through them, and through those of the
# libraries, was a tenth of the tests' time.
gc.set_threshold(200_000, 20, 100)


def pytest_collection_finish() -> None:
    """What was imported stays."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run on a GPU, all others on the CPU; files with a `slow` one begin."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    wanted = [item for item in items if (PLATFORM == "cpu") == (not item.get_closest_marker("gpu"))]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture(scope="session")
def speech() -> Path:
    """Real speech, a corpus of a few clips in the LJ Speech layout, where there is one."""
    directory = os.environ.get("VITS_JAX_SPEECH")
    if directory is None:
        pytest.skip("VITS_JAX_SPEECH names no folder of recorded speech")
    assert (Path(directory) / "metadata.csv").is_file(), f"VITS_JAX_SPEECH: no corpus {directory}"
    return Path(directory)
