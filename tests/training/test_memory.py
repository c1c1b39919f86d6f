"""What the compiler says that a step takes is remembered, told, and held against what there is."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from vits_jax import device_memory
from vits_jax.compilation import local_directory
from vits_jax.compiler import Compiler
from vits_jax.device_memory import Needs
from vits_jax.errors import UserError
from vits_jax.presets import preset
from vits_jax.programs import Programs
from vits_jax.state import create_state
from vits_jax.training.memory import StepMemory
from vits_jax.training.mesh import abstract_copy, make_mesh

SMALL, LARGE = (8, 100, 300), (32, 120, 400)
GB = 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path: Path) -> Iterator[Path]:
    """Where the compiled programs would be kept."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "capacity", lambda device: 12 * GB)


def of_run(resident: int = 0, devices: int = 1, **changes: object) -> StepMemory:
    return StepMemory(preset("demo").replaced(changes), make_mesh(devices), resident)


def state(devices: int = 1):
    mesh = make_mesh(devices)
    shapes = jax.eval_shape(lambda: create_state(preset("demo"), jax.random.key(0)))
    return abstract_copy(shapes, mesh)


def learn(memory: StepMemory, **sizes: int) -> None:
    for shape, size in {SMALL: sizes["small"], LARGE: sizes["large"]}.items():
        memory.compiled(shape, Needs(size, jax.local_devices()[0]))


def test_what_was_compiled_is_known_to_the_next_run(has):
    learn(of_run(), small=2 * GB, large=5 * GB)
    assert of_run().known([SMALL, LARGE, (1, 1, 1)]) == {SMALL: 2 * GB, LARGE: 5 * GB}


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_channels": 64},
        {"precision": "bf16-mixed"},
        {"accumulate_grad_batches": 2},
        {"segment_size": 2048},
        {"ema_decay": 0.999},
        {"use_mrd": True},
        {"devices": 2},
    ],
)
def test_what_takes_something_else_is_not_known(has, changes):
    learn(of_run(), small=2 * GB, large=5 * GB)
    assert of_run(**changes).known([SMALL, LARGE]) == {}


@pytest.mark.parametrize(
    "damaged", [b"", b"[]", b'{"8 x": 1}', b'{"8 x 100 x 300": null}', b"\xff"]
)
def test_what_cannot_be_read_is_not_known_and_written_again(has, cache: Path, damaged: bytes):
    learn(of_run(), small=2 * GB, large=5 * GB)
    (file,) = cache.glob("memory-*.json")
    file.write_bytes(damaged)
    assert of_run().known([SMALL, LARGE]) == {}
    learn(of_run(), small=2 * GB, large=5 * GB)
    assert of_run().known([SMALL]) == {SMALL: 2 * GB}


def test_a_cache_that_cannot_be_written_or_is_none(has, cache: Path):
    cache.write_text("a file")
    learn(of_run(), small=2 * GB, large=5 * GB)
    assert of_run().known([SMALL]) == {}
    jax.config.update("jax_compilation_cache_dir", None)
    learn(of_run(), small=2 * GB, large=5 * GB)
    assert of_run().known([SMALL]) == {}


def test_nothing_is_said_that_no_compiler_said(has, caplog):
    memory = of_run()
    memory.compiled(SMALL, Needs(2 * GB, jax.local_devices()[0]))
    with caplog.at_level(logging.INFO):
        of_run().announce([SMALL, LARGE], state())
    (said,) = caplog.messages
    assert said == (
        "memory: the device (cpu) has 12.0 GB; what a batch takes is told when its step is compiled"
    )


@pytest.mark.parametrize(
    ("large", "level", "expected"),
    [
        (7 * GB, "INFO", r"the largest batch, 32 x 120 x 400 \(.*\), takes 7\.0 GB, .* 12\.0 GB"),
        (
            13 * GB,
            "WARNING",
            r"a batch of 32 x 120 x 400 \(.*\) takes 13\.0 GB, .* 12\.0 GB; where it runs out, "
            r"lower --batch-size.*",
        ),
    ],
)
def test_the_largest_is_held_against_what_there_is(has, caplog, large, level, expected):
    with caplog.at_level(logging.INFO):
        learn(of_run(), small=2 * GB, large=large)
        said_when_compiled = list(caplog.messages)
        caplog.clear()
        of_run().announce([SMALL, LARGE], state())
    (record,) = caplog.records
    assert record.levelname == level
    assert re.fullmatch(f"memory: {expected}", record.message)
    assert said_when_compiled == ([record.message] if level == "WARNING" else [])


def test_devices_of_one_machine_share_its_memory(has):
    learn(of_run(devices=2), small=2 * GB, large=5 * GB)
    assert of_run(devices=2).known([SMALL]) == {SMALL: 4 * GB}


def test_a_corpus_on_the_devices_is_counted(has, caplog):
    learn(of_run(devices=2), small=1 * GB, large=2 * GB)
    with caplog.at_level(logging.INFO):
        of_run(2 * GB, devices=2).announce([SMALL, LARGE], state(2))
        of_run(5 * GB, devices=2).announce([SMALL, LARGE], state(2))
    fits, over = caplog.messages
    assert "takes 8.0 GB" in fits
    assert "takes 14.0 GB (of it the corpus 10.0 GB)" in over
    assert "runs out, leave --data-on-device out, or lower --batch-size" in over


def test_a_corpus_that_does_not_fit_beside_the_model_is_refused(has):
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state()))
    of_run(12 * GB - size).announce([SMALL], state())
    with pytest.raises(
        UserError, match=r"takes 12\.0 GB beside .* of model and optimizers, .*: leave"
    ):
        of_run(12 * GB - size + 1).announce([SMALL], state())


def test_what_compiles_tells_it(has, cache: Path):
    """The compiler's own figure of a real program, as `Programs` has it."""
    memory = of_run()
    shape, compiler = (4, 5, 6), Compiler()
    program = Programs(jax.jit(lambda x: x @ x.T), "step", compiler, told=memory.compiled)
    program(shape, jax.numpy.ones((300, 200)))
    needs = program.needs(shape)
    assert needs is not None
    assert needs.bytes > 300 * 200 * 4
    assert of_run().known([shape]) == {shape: needs.bytes}
    assert local_directory() == cache
    compiler.close()
