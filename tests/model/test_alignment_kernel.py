"""The alignment's kernels beside the loop, and what they are lowered and compiled to."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vits_jax.benchmarks import align, alignment_peers
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model import alignment_kernel
from vits_jax.model.alignment import durations, log_likelihood, spread
from vits_jax.model.alignment_loop import durations_by_loop
from vits_jax.model.forms import FORMS, forms, forms_for

SIZES = {"batch_size": 2, "frames": 12, "phonemes": 5}


def random_case(seed: int, batch: int, frames: int, phonemes: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(-10, 3, (batch, frames, phonemes)).astype(np.float32)
    lengths = [rng.integers(1, n, batch, np.int32, endpoint=True) for n in (phonemes, frames)]
    return scores, *lengths


def test_more_phonemes_than_frames() -> None:
    """No path; as the loop has it, the last phoneme takes them all or its neighbours share."""
    scores, phonemes, frames = random_case(0, 12, 7, 9)
    assert (phonemes > frames).sum() > 2
    expected = durations_by_loop(scores, phonemes, frames)
    for kernel in (alignment_kernel.on_tpu, alignment_kernel.on_gpu):
        np.testing.assert_array_equal(kernel(scores, phonemes, frames, interpret=True), expected)
    np.testing.assert_array_equal(expected.sum(1), frames)


def test_within_a_steps_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `jax.vjp` in `jax.shard_map`, over two devices."""
    rng = np.random.default_rng(0)
    z, m = (rng.normal(size=(4, n, 3)).astype(np.float32) for n in (10, 4))
    _, phonemes, frames = random_case(0, 4, 10, 4)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))

    def of(platform: str) -> Any:
        def loss(m: jax.Array, z: jax.Array, phonemes: jax.Array, frames: jax.Array) -> jax.Array:
            scores = log_likelihood(*map(jax.lax.stop_gradient, (z, m, jnp.zeros_like(m))))
            aligned = spread(durations(scores, phonemes, frames), z.shape[1], z.dtype)
            return jnp.sum((jnp.einsum("bfp,bpc->bfc", aligned, m) - z) ** 2, axis=(1, 2))

        def shard(m: jax.Array, *rest: jax.Array) -> jax.Array:
            with forms_for(platform):
                value, back = jax.vjp(lambda m: loss(m, *rest), m)
            return back(jnp.ones_like(value))[0]

        by_row = P("data")
        sharded = jax.shard_map(
            shard, mesh=mesh, in_specs=by_row, out_specs=by_row, check_vma=False
        )
        return jax.jit(sharded)(m, z, phonemes, frames)

    called = []
    kernel = alignment_kernel.durations
    monkeypatch.setattr(
        alignment_kernel, "durations", lambda *a: called.append(a[0].shape) or kernel(*a)
    )
    expected = of("cpu")
    assert not called
    np.testing.assert_array_equal(of("tpu"), expected)
    assert called == [(2, 10, 4)]


def lowered(platform: str, on: str, *shape: int) -> str:
    scores = jax.ShapeDtypeStruct(shape, jnp.float32)
    length = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    with forms_for(platform):
        traced = jax.jit(lambda *a: durations(*a)).trace(scores, length, length)
    return traced.lower(lowering_platforms=(on,)).as_text()


@pytest.mark.parametrize(
    ("platform", "on", "call"), [("tpu", "tpu", "tpu_custom_call"), ("gpu", "cuda", "triton")]
)
def test_lowered_for_a_platform_that_is_not_here(platform: str, on: str, call: str) -> None:
    if on == "cuda" and jax.__version_info__ >= (0, 11):
        pytest.skip("jax 0.11 lowers such a kernel only where there is a GPU")
    for shape in ((32, 1000, 300), (1, 1, 1), (8, 5168, 1344)):
        text = lowered(platform, on, *shape)
        assert call in text and "stablehlo.while" not in text, shape
    # What does not fit is the loop.
    text = lowered(platform, on, 1, 16, 5000)
    assert call not in text and "stablehlo.while" in text


@pytest.mark.parametrize(
    ("target", "needs"), [("v5e:1x1", "libtpu"), ("h100", "jax_cuda12_plugin")]
)
def test_compiled_for_a_chip_that_is_not_here(target: str, needs: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    result = tmp_path / "align.json"
    sizes = ["--batch-size", "9", "--frames", "70", "--phonemes", "40"]
    command = ["-m", "vits_jax.commands", "benchmark", "align", "--target", target, *sizes]
    subprocess.run([sys.executable, *command, "--json", str(result)], check=True)
    parts = json.loads(result.read_text())["parts"]
    assert parts["kernel"]["dependent_turns"] == 0
    assert parts["kernel"]["launches"] < 8
    assert parts["loop"]["dependent_turns"] == 140
    assert parts["loop"]["launches"] > 140


def test_what_fits() -> None:
    for shape in ((32, 5168, 1344), (1, 22000, 300), (1, 10, 4096)):
        assert alignment_kernel.fits(shape)
    for shape in ((1, 10, 4097), (1, 6500, 1344)):
        assert not alignment_kernel.fits(shape)


@pytest.mark.parametrize(
    ("capability", "kernel"), [("7.5", False), ("8.0", True), ("10.3", True), ("gfx90a", False)]
)
def test_older_gpus_have_no_kernel(capability: str, kernel: bool) -> None:
    device: Any = SimpleNamespace(platform="gpu", compute_capability=capability)
    with forms_for(device):
        assert forms().alignment_kernel is kernel
        assert forms().phases
    with forms_for(jax.devices()[0]):
        assert forms() == FORMS["cpu"]


def test_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = Namespace(**SIZES, steps=1, target=None)
    parts = align.benchmark(flags, Config())["parts"]
    assert parts["loop"]["dependent_turns"] >= 2 * 12
    assert parts["loop"]["launches"] > 2 * 12
    for name in ("loop", "numpy"):
        assert parts[name]["different"] == 0
        assert parts[name]["milliseconds"] > 0
    if alignment_peers.compiled_loop() is not None:
        assert parts["C loop"]["different"] == 0
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert align.benchmark(flags, Config())["parts"]["C loop"]["milliseconds"] == "no C compiler"
    flags.phonemes = 13
    with pytest.raises(UserError, match="--frames 12: expected at least as many as --phonemes, 13"):
        align.benchmark(flags, Config())


def test_peers_on_ragged_rows() -> None:
    """Beyond a row's length a peer says nothing."""
    scores, phonemes, frames = random_case(1, 6, 20, 8)
    frames = np.maximum(frames, phonemes)
    expected = np.asarray(durations_by_loop(scores, phonemes, frames))
    searches = [alignment_peers.numpy_path, alignment_peers.compiled_loop()]
    for search in filter(None, searches):
        path = search(scores, phonemes, frames)
        for row, length in enumerate(frames):
            got = np.bincount(path[row, :length], minlength=8)
            np.testing.assert_array_equal(got, expected[row])


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(32, 1000, 300), (3, 40, 12), (2, 1, 1), (2, 2000, 1344)])
def test_on_a_gpu(shape: tuple[int, int, int]) -> None:
    """Random and tied scores, ragged rows, and all of them full."""
    kernel, loop = jax.jit(alignment_kernel.on_gpu), jax.jit(durations_by_loop)
    scores, phonemes, frames = random_case(0, *shape)
    tied = np.random.default_rng(1).integers(-2, 1, shape).astype(np.float32)
    full = [np.full(shape[0], n, np.int32) for n in (shape[2], shape[1])]
    for values in (scores, tied, np.zeros_like(scores)):
        for lengths in ((phonemes, frames), full):
            np.testing.assert_array_equal(kernel(values, *lengths), loop(values, *lengths))
