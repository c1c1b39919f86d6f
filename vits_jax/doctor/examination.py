"""One look after the other at an installation, and what would mend what is wrong with it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from vits_jax.cli import version
from vits_jax.doctor import packages
from vits_jax.doctor.packages import OURS, Package

DISK = 4_000_000_000
"""Bytes of a run of a medium voice: four checkpoints of 789 MB, and one that is being written."""
PATIENCE = 900.0  # seconds for one part: on two busy processors the step compiles for minutes
_NAMED = 4  # of what an extra lacks
_GPU, _TPU = "/dev/nvidia0", "/dev/accel0"


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Attributes:
        about: what was looked at.
        text: what is there.
        mend: what to do, where something is wrong; None: nothing is.
        broken: whether training cannot work without it.
        figures: the same for programs.
    """

    about: str
    text: str
    mend: str | None = None
    broken: bool = False
    figures: dict[str, Any] = field(default_factory=dict)


def examine(seconds: float) -> Iterator[Finding]:
    """Look at everything, the quick first.

    Args:
        seconds: how long to train; 0: not at all.
    """
    yield _python()
    core = list(packages.below(packages.asked(OURS)))
    yield from _core(core)
    complete = set()
    for extra in packages.extras():
        finding = _extra(extra)
        yield finding
        if finding.figures["complete"]:
            complete.add(extra)
    yield _disk()
    if "audio" in complete:
        yield from _tried("audio", _audio, "vits_jax[audio]")
    if "preprocess" in complete:
        yield from _tried("phonemes", _phonemes, "vits_jax[preprocess]")
    if "export" in complete:
        yield from _tried("export", _export, "vits_jax[export]")
    yield from _core_at_work(seconds)


def _python() -> Finding:
    wanted = importlib.metadata.metadata(OURS)["Requires-Python"]
    here = platform.python_version()
    fits = SpecifierSet(wanted).contains(here, prereleases=True)
    return Finding(
        "python",
        f"{here}, {sys.executable}; {platform.platform()}, {os.cpu_count()} processors",
        None if fits else f"Python {wanted} is needed: make an environment with it",
        not fits,
        {"version": here, "platform": platform.platform(), "vits_jax": version()},
    )


# What is installed


def _core(core: list[Package]) -> Iterator[Finding]:
    own = [package for package in core if package.by == OURS]
    wrong = [package for package in core if not package.fits]
    yield Finding(
        "core",
        ", ".join(f"{p.name} {p.found}" for p in own if p.found),
        figures={p.name: p.found for p in own},
    )
    for package in wrong:
        yield Finding("core", _said(package), _pip(package.asked), package.found is None)


def _extra(name: str) -> Finding:
    found = list(packages.below(packages.asked(OURS, name)))
    wrong = [package for package in found if not package.fits]
    here = {p.name: p.found for p in found if p.by == OURS}
    figures = {"complete": not wrong, "packages": here}
    if not wrong:
        said = ", ".join(f"{name} {found}" for name, found in here.items())
        return Finding(f"[{name}]", f"complete: {said}", figures=figures)
    absent = list(dict.fromkeys(package.name for package in wrong if package.found is None))
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    said = f"not complete, for want of {', '.join(absent[:_NAMED])}{more}"
    if not absent:
        said = "not complete"
    line = _pip(f"{OURS}[{name}]")
    others = [package for package in wrong if package.found is not None]
    if not others:  # nobody needs every extra
        return Finding(f"[{name}]", f"{said}: {line}", figures=figures)
    return Finding(f"[{name}]", f"{said}; {'; '.join(map(_said, others))}", line, figures=figures)


def _said(package: Package) -> str:
    if package.found is None:
        return f"{package.name} is not installed; {package.by} asks for {package.asked}"
    return f"{package.name} {package.found} is installed; {package.by} asks for {package.asked}"


def _pip(asked: str) -> str:
    return f"pip install '{asked}'"


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding(
        "disk",
        f"{_gb(free)} free in {Path.cwd()}",
        "make room, or train elsewhere (--run-dir): a run of a medium voice keeps "
        f"{_gb(DISK)} of checkpoints"
        if free < DISK
        else None,
        figures={"free_bytes": free},
    )


# What works, tried in processes of their own

_FAILURE, _LATE = "failure", "no answer in"
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")  # the first line of what an exception says


def _probe(*words: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What a probe tells, as it comes; of one that failed, the last words as `_FAILURE`."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        command = [sys.executable, "-m", "vits_jax.doctor.probe", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
            assert process.stdout is not None
            patience = threading.Timer(PATIENCE, process.kill)
            patience.start()
            try:
                for line in process.stdout:
                    if line.startswith("{"):  # a library may print, too
                        figures = json.loads(line)
                        yield figures.pop("about"), figures
            finally:  # interrupted, too: a thread that waits would hold the process up
                late = not patience.is_alive()
                patience.cancel()
        stderr.seek(0)
        lines = stderr.read().strip().splitlines() or ["it said nothing"]
    last = next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1])
    if late:
        yield _FAILURE, {"said": f"{_LATE} {PATIENCE:.0f} s"}
    elif process.returncode < 0:
        yield _FAILURE, {"said": f"{signal.Signals(-process.returncode).name}: {last}"}
    elif process.returncode:
        yield _FAILURE, {"said": last}


def _tried(part: str, shown: Callable[[dict[str, Any]], str], asked: str) -> Iterator[Finding]:
    """A part of an extra that is complete."""
    for about, told in _probe(part):
        if about == _FAILURE:
            yield Finding(part, f"fails: {told['said']}", f"{_pip(asked)} --force-reinstall")
        else:
            yield Finding(part, shown(told), figures=told)


def _audio(told: dict[str, Any]) -> str:
    return f"{', '.join(told['formats'])} are written and read (libsndfile {told['libsndfile']})"


def _phonemes(told: dict[str, Any]) -> str:
    return f"“Hello.” becomes {told['phonemes']}"


def _export(told: dict[str, Any]) -> str:
    return f"onnxruntime {told['onnxruntime']} runs a graph"


def _core_at_work(seconds: float) -> Iterator[Finding]:
    started = False
    for about, told in _probe("step", str(seconds)):
        if about == _FAILURE:
            yield _not_working(started, told["said"])
        elif about == "devices":
            started = True
            yield from _devices(told)
        else:
            yield _cache(told) if about == "cache" else _step(told)


def _devices(told: dict[str, Any]) -> Iterator[Finding]:
    kinds = told["kinds"]
    size = "" if told["bytes"] is None else f", {_gb(told['bytes'])} of memory"
    mend = None
    if told["backend"] == "cpu":
        mend = _unseen()
    text = f"{len(kinds)} × {kinds[0]} ({told['backend']}){size}"
    yield Finding("devices", text, mend, figures=told)
    yield Finding("memory", f"{_gb(told['host_bytes'])} free", figures=told)


def _unseen() -> str | None:
    """What to do where there is an accelerator and JAX computes on the processor."""
    for device, extra in ((_GPU, "cuda"), (_TPU, "tpu")):
        if Path(device).exists():
            if asked := os.environ.get("JAX_PLATFORMS"):
                return f"{device} is there and not used: unset JAX_PLATFORMS, which is {asked!r}"
            return f"{device} is there and JAX does not see it: {_pip(f'{OURS}[{extra}]')}"
    return None


def _cache(told: dict[str, Any]) -> Finding:
    place = Path(told["place"])
    text = f"{told['bytes'] / 1e6:,.1f} MB of compiled programs in {place}"
    there = next(path for path in (place, *place.parents) if path.exists())
    writable = not told["local"] or os.access(there, os.W_OK)
    mend = None if writable else f"no permission for {there}: name another in XDG_CACHE_HOME"
    return Finding("cache", text, mend, figures=told)


def _not_working(started: bool, failure: str) -> Finding:
    if not started:
        advice = "JAX does not start: pip install --force-reinstall jax jaxlib"
        if "cpu" not in os.environ.get("JAX_PLATFORMS", ""):
            advice += "; or without the accelerator: JAX_PLATFORMS=cpu"
        return Finding("devices", f"fails: {failure}", advice, True)
    advice = f"{_pip(OURS)} --force-reinstall; if it fails again, report it with all of this"
    if failure.startswith(_LATE):
        advice = "try again when the machine is less busy; if a driver hangs: JAX_PLATFORMS=cpu"
    memory = ("RESOURCE_EXHAUSTED", "out of memory", "MemoryError", "SIGKILL")
    if any(word in failure for word in memory):
        advice = "no memory was left: end what else computes here, or take a larger machine"
    return Finding("step", f"fails: {failure}", advice, True)


def _step(told: dict[str, Any]) -> Finding:
    finite = all(math.isfinite(told[name]) for name in ("loss_g", "loss_d"))
    text = (
        f"the demo model, a batch of {told['rows']}: {told['step_seconds'] * 1000:.0f} ms, "
        f"the median of {told['steps']}, after {told['compile_seconds']:.1f} s to compile or load"
    )
    if finite:
        return Finding("step", text, figures=told)
    advice = "the driver, the chip or XLA computes wrongly; compare with JAX_PLATFORMS=cpu"
    text += f"; its losses are {told['loss_g']} and {told['loss_d']}"
    return Finding("step", text, f"they must be finite: {advice}", True)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
