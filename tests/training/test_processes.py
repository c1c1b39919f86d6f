"""Runs of several processes, really started: equal to one, stopped, continued, killed, refused."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.parity.comparing import assert_all_close
from tests.runs import few_layers, flags, leaves, stand_in, write_dataset
from vits_jax.checkpoints import store
from vits_jax.checkpoints.store import step_directories
from vits_jax.state import TrainState, abstract_state

pytestmark = pytest.mark.slow

PATIENCE = 600  # seconds: machines are slow and shared
BOUND = 1e-9
# True gradient zero: softmax does not see a key's bias.
ZERO = {"conv_k.bias": 1e-12}


class Run:
    """The processes of one run; leaving the context kills those that are left."""

    def __init__(self, kind: str, argv: list[list[str]], logs: Path, devices: int):
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        logs.mkdir(parents=True)
        self.logs = [logs / f"{index}.log" for index in range(len(argv))]
        self.all = []
        for own, log in zip(argv, self.logs, strict=True):
            with log.open("wb") as file:
                command = [sys.executable, "-m", "tests.training.process", kind, *own]
                self.all.append(
                    subprocess.Popen(command, env=environment, stderr=file, stdout=file)
                )

    def wait_for(self, words: str, index: int = 0) -> None:
        """Until a process has said so."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.said(index):
            assert self.all[index].poll() is None, self.said(index)
            assert time.monotonic() < deadline, self.said(index)
            time.sleep(0.05)

    def said(self, index: int = 0) -> str:
        return self.logs[index].read_text()

    def codes(self) -> list[int]:
        """Exit codes of all, when they have ended."""
        return [process.wait(PATIENCE) for process in self.all]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("processes") / "data")


@contextlib.contextmanager
def started(
    kind: str,
    dataset: Path,
    run_dir: Path,
    *,
    processes: int = 1,
    devices: int = 1,
    own: dict[int, dict[str, Any]] | None = None,
    **more: Any,
) -> Iterator[Run]:
    """A run of so many processes with so many devices each.

    Args:
        own: flags of some of the processes, by index.
        more: flags of all.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    argv = []
    for index in range(processes):
        cluster: dict[str, Any] = {"devices": None, "batch_size": 8}
        if processes > 1:
            cluster |= {"coordinator": f"127.0.0.1:{port}", "num_nodes": processes}
            cluster |= {"node_rank": index}
        given = cluster | more | (own or {}).get(index, {})
        argv.append(flags(given.pop("dataset_dir", dataset), run_dir, **given))
    logs = run_dir.with_name(f"{run_dir.name}-logs-{time.monotonic_ns()}")
    run = Run(kind, argv, logs, devices)
    try:
        yield run
    finally:
        for process in run.all:
            process.kill()
            process.wait()


def finish(kind: str, dataset: Path, run_dir: Path, **more: Any) -> None:
    """A run that ends by itself."""
    with started(kind, dataset, run_dir, **more) as run:
        assert run.codes() == [0] * more.get("processes", 1), [log.read_text() for log in run.logs]


def in_float64(where: Path) -> TrainState:
    """What a run saved last, or at the step that is named."""
    step_dir = store.resolve(where)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    jax.config.update("jax_enable_x64", True)  # in Orbax's threads too
    try:
        with few_layers(2, 1):
            config = store.read_metadata(step_dir).config
            target = abstract_state(config, sharding, np.float64)
        return jax.device_get(TrainState.from_dict(store.restore(step_dir, target.to_dict())))
    finally:
        jax.config.update("jax_enable_x64", False)


def same(where: Path, other: Path) -> None:
    """Steps, parameters, moments (gradients are in them), to rounding of float64."""
    ours, theirs = in_float64(where), in_float64(other)
    assert ours.step == theirs.step > 0
    for network, parameters in ours.params.items():
        assert all(array.dtype == np.float64 for array in parameters.values())
        assert_all_close(parameters, theirs.params[network], BOUND)
        for moment in ("mu", "nu"):
            moments = [s.optimizer[network][moment] for s in (ours, theirs)]
            assert_all_close(*moments, BOUND, ZERO)


# The real step, in float64

STEPS = {"use_sdp": "false", "checkpoint_steps": 5, "keep_newest": -1, "num_test_examples": 0}


@pytest.fixture(scope="module")
def undisturbed(dataset: Path) -> Path:
    """Ten steps on eight devices of one process; the fifth is kept."""
    run_dir = dataset.parent / "undisturbed"
    finish("float64", dataset, run_dir, devices=8, max_steps=10, **STEPS)
    return run_dir


def test_two_processes_of_four_devices(dataset: Path, tmp_path: Path, undisturbed: Path) -> None:
    run_dir = tmp_path / "run"
    finish("float64", dataset, run_dir, processes=2, devices=4, max_steps=10, **STEPS)
    same(run_dir, undisturbed)
    same(run_dir / "checkpoints" / "5", undisturbed / "checkpoints" / "5")


def test_one_device(dataset: Path, tmp_path: Path, undisturbed: Path) -> None:
    finish("float64", dataset, tmp_path / "run", max_steps=10, **STEPS)
    same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (2, 4)])
def test_continued_on_others(
    dataset: Path, tmp_path: Path, undisturbed: Path, processes: int, devices: int
) -> None:
    """What eight devices had done after five steps."""
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    for step in steps(run_dir):
        if step > 5:
            shutil.rmtree(run_dir / "checkpoints" / str(step))
    more: dict[str, Any] = {"processes": processes, "devices": devices, "max_steps": 10}
    finish("float64", dataset, run_dir, **more, **STEPS)
    same(run_dir, undisturbed)


# Stopped, killed, refused: a stand-in for the step

LONG = {"max_epochs": -1, "log_every_n_steps": 5}


def steps(run_dir: Path) -> list[int]:
    """That are saved."""
    return [int(path.name) for path in step_directories(run_dir / "checkpoints")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_is_asked_to_stop(dataset, tmp_path, monkeypatch, number: int, code: int) -> None:
    """Both save the same step; then all goes on as if nothing had been."""
    stand_in(monkeypatch)  # its state is read below
    run_dir = tmp_path / "run"
    # The first process's clock says when to look: the others hear of it after each epoch.
    two: dict[str, Any] = {"processes": 2, "check_val_every_n_epoch": None}
    with started("stand-in", dataset, run_dir, **two, **LONG) as run:
        run.wait_for("step 10 ")
        run.all[1].send_signal(number)
        assert run.codes() == [code, code], [log.read_text() for log in run.logs]
        (stopped,) = re.findall(r"stopped by \w+ after (\d+) steps", run.said())
        assert "another process was asked to stop" in run.said()
    assert steps(run_dir)[-1] == int(stopped)
    more = int(stopped) + 3
    finish("stand-in", dataset, run_dir, max_steps=more, **two)
    finish("stand-in", dataset, tmp_path / "other", max_steps=more)
    ours, theirs = leaves(run_dir), leaves(tmp_path / "other")
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("killed", [1, 0])
def test_one_is_killed(dataset: Path, tmp_path: Path, killed: int) -> None:
    """The other one says who, and what is saved, and ends; the same command goes on."""
    run_dir = tmp_path / "run"
    with started("stand-in", dataset, run_dir, processes=2, checkpoint_steps=5, **LONG) as run:
        run.wait_for("step 20 ")
        run.all[killed].kill()
        other = run.all[1 - killed]
        assert other.wait(PATIENCE) == 1, run.said(1 - killed)
        last = steps(run_dir)[-1]
        assert re.search(
            rf"process {killed} (on \S+ )?is lost.*; the last step saved is \d+; ",
            run.said(1 - killed),
        ), run.said(1 - killed)
    finish("stand-in", dataset, run_dir, processes=2, max_steps=last + 2)
    assert steps(run_dir)[-1] == last + 2


def test_started_otherwise(dataset: Path, tmp_path: Path) -> None:
    """Refused by name before the first step."""
    others = write_dataset(tmp_path / "others", utterances=15)
    for own, named in (
        ({"seed": 5}, "--seed 5, the first process 1234"),
        ({"dataset_dir": others}, "process 1 on "),
        ({"dataset_dir": tmp_path / "nowhere"}, "nowhere"),
    ):
        run_dir = tmp_path / f"run{len(str(own))}"
        with started("stand-in", dataset, run_dir, processes=2, own={1: own}, max_steps=2) as run:
            assert run.codes() == [2, 2], [log.read_text() for log in run.logs]
            for index in range(2):
                assert re.search(rf"error: .*{re.escape(named)}", run.said(index)), run.said(index)
        assert not run_dir.exists()
