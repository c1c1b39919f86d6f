"""All that only an accelerator can tell, one figure after the other (``benchmark accelerator``).

Each stage is a command in a process of its own, whose figures are a file in the directory. What
is there already is not done again, and no stage begins when the time is up: run it once more
and it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vits_jax.benchmarks.startup import STARTS
from vits_jax.benchmarks.tables import table
from vits_jax.config import Config

SHAPE = ("--phonemes", "150", "--frames", "600")
SMALL = ("--phonemes", "20", "--frames", "40")  # of a trial at demo size
LONG = ("--phonemes", "300", "--frames", "1000")  # of the alignment, which it is about
_OF_INPUT = (
    "utterances_per_second",
    "speech_seconds_per_second",
    "bytes_per_second",
    "waiting_share",
)
LEAST_SECONDS = 60  # no stage begins when less is left


class Stage(NamedTuple):
    """A command.

    Attributes:
        name: of its files.
        arguments: of Python.
        environment: on top of this process's.
    """

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


def stages(quality: str, batch_sizes: list[int], peer: bool) -> Iterator[Stage]:
    """The most wanted first.

    Args:
        quality: ``"medium"``; a trial's is ``"demo"``, of which there is no higher one.
        batch_sizes: the middle one is wanted most.
        peer: beside Piper.
    """
    shape = SMALL if quality == "demo" else SHAPE
    middle = batch_sizes[len(batch_sizes) // 2]
    others = [size for size in batch_sizes if size != middle]

    def stage(name: str, kind: str, *arguments: str) -> Stage:
        module = ("-m", "vits_jax.commands", "benchmark", kind)
        return Stage(name, (*module, *arguments), {})

    def step(quality: str, precision: str, size: int) -> Stage:
        name = f"step-{quality}-{precision}-{size}"
        more = ("--quality", quality, "--precision", precision, "--batch-size", str(size), *shape)
        return stage(name, "step", *more, *(["--peer"] if peer else []))

    yield step(quality, "bf16-mixed", middle)
    yield stage("precision", "precision", "--quality", quality, "--batch-size", "4", *shape)
    yield stage(
        "parts", "parts", "--quality", quality, "--precision", "bf16-mixed",
        "--batch-size", str(middle), *shape,
    )  # fmt: skip
    of_align = SMALL if quality == "demo" else LONG
    yield stage("align", "align", "--batch-size", str(middle), *of_align)
    for precision in ("tf32", "32"):
        yield step(quality, precision, middle)
    yield stage("input", "input", "--batch-size", str(middle), "--num-buckets", "6")
    yield stage(
        "startup", "startup", "--quality", quality, "--precision", "bf16-mixed",
        "--batch-size", str(middle),
    )  # fmt: skip
    yield Stage(
        "tests",
        ("-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"),
        {"VITS_JAX_TEST_PLATFORM": "gpu"},
    )
    for size in others:
        for precision in ("bf16-mixed", "tf32", "32"):
            yield step(quality, precision, size)
    if quality != "demo":
        for size in (middle, *others):
            for precision in ("bf16-mixed", "tf32", "32"):
                yield step("high", precision, size)


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Run what is missing, and write ``table.md`` of what is there."""
    directory: Path = args.out
    directory.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    left_out, failed = [], []
    wanted = list(stages(args.quality, args.batch_sizes, args.peer))
    for stage in wanted:
        result = directory / f"{stage.name}.json"
        if result.exists():
            continue
        seconds = end - time.monotonic()
        if seconds <= LEAST_SECONDS:
            left_out.append(stage.name)
            continue
        if not _run(stage, result, seconds):
            failed.append(stage.name)
    figures = {s.name: json.loads((directory / f"{s.name}.json").read_text()) for s in wanted
               if (directory / f"{s.name}.json").exists()}  # fmt: skip
    (directory / "table.md").write_text(_markdown(figures), encoding="utf-8")
    return {
        "done": sorted(figures),
        "failed": failed,
        "left_out": left_out,
        "table": str(directory / "table.md"),
    }


def _run(stage: Stage, result: Path, seconds: float) -> bool:
    """Whether it gave figures; what it said is beside them."""
    print(f"{stage.name} …", flush=True)
    tests = "pytest" in stage.arguments
    partly = result.with_suffix(".part")
    arguments = stage.arguments if tests else (*stage.arguments, "--json", str(partly))
    start = time.monotonic()
    with result.with_suffix(".log").open("w", encoding="utf-8") as log:
        try:
            code = subprocess.run(
                [sys.executable, *arguments],
                env=os.environ | stage.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    taken = time.monotonic() - start
    if tests and code in (0, 1):  # they ran; whether all passed is a figure, too
        last = (result.with_suffix(".log").read_text(encoding="utf-8").splitlines() or [""])[-1]
        partly.write_text(json.dumps({"exit_code": code, "summary": last}), encoding="utf-8")
        code = 0
    if code != 0 or not partly.exists():
        print(f"{stage.name} {'ran out of time' if code is None else 'failed'}, see its log")
        return False
    figures = json.loads(partly.read_text(encoding="utf-8")) | {"whole_seconds": taken}
    partly.unlink()
    result.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return True


def _markdown(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as tables for docs/performance.md."""
    lines = []
    steps = {name: f for name, f in figures.items() if name.startswith("step-")}
    if steps:
        lines += [f"{next(iter(steps.values()))['device']}:", ""]
        rows = {name.removeprefix("step-"): _of_a_step(f) for name, f in steps.items()}
        lines.append(table(rows, "quality, precision, batch"))
    if "parts" in figures:
        lines += [
            "",
            f"Parts ({figures['parts']['precision']}):",
            "",
            table(figures["parts"]["parts"]),
        ]
    if "align" in figures:
        lines += ["", "Alignment:", "", table(figures["align"]["parts"])]
    if "precision" in figures:
        lines += ["", "Distance from float32:", "", table(figures["precision"]["parts"])]
    if "startup" in figures:
        seconds = {start: figures["startup"][f"{start}_seconds"] for start in STARTS}
        rows = {"first step": seconds} | figures["startup"]["parts"]
        lines += ["", "Seconds to the first step:", "", table(rows)]
    if "input" in figures:
        rows = {name: {figure: figures["input"][prefix + figure] for figure in _OF_INPUT}
                for name, prefix in (("read", ""), ("on the device", "on_device_"))}  # fmt: skip
        lines += ["", "Input:", "", table(rows, "batches")]
    if "tests" in figures:
        lines += ["", f"tests marked gpu: {figures['tests']['summary']}"]
    return "\n".join(lines) + "\n"


def _of_a_step(figures: dict[str, Any]) -> dict[str, Any]:
    ours, peer, mfu = (figures[name] for name in ("step_seconds", "peer_step_seconds", "mfu"))
    return {
        "ms": 1e3 * ours,
        "utterances/s": figures["utterances_per_second"],
        "Piper, ms": 1e3 * peer if peer else "not measured",
        "ratio": ours / peer if peer else "not measured",
        "MFU, %": 100 * mfu if mfu else None,
        "peak GB": figures["peak_bytes"] / 1e9 if figures["peak_bytes"] else None,
    }
