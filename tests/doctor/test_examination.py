"""What the doctor says of what is broken, each broken here for once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vits_jax.commands.doctor import main
from vits_jax.doctor import examination, packages, probe
from vits_jax.doctor.examination import Finding, examine
from vits_jax.doctor.packages import Package


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Have a shell script run in place of the training step."""

    def run(script: str) -> list[Finding]:
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        monkeypatch.setattr(packages, "extras", list)  # which would be tried, too
        return [f for f in examine(1.0) if f.about in ("devices", "memory", "step")]

    return run


DEVICES = (
    'echo \'{"about": "devices", "backend": "cpu", "kinds": ["cpu"], "bytes": 1, "host_bytes": 1}\''
)


def test_a_processor_that_does_not_know_the_instructions(probes):
    (finding,) = probes("kill -ILL $$")
    assert (finding.about, finding.broken) == ("devices", True)
    assert finding.text.startswith("fails: SIGILL")
    assert finding.mend is not None
    assert "jaxlib" in finding.mend


def test_a_driver_that_hangs(probes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(examination, "PATIENCE", 0.5)
    monkeypatch.delenv("JAX_PLATFORMS")
    (finding,) = probes("exec sleep 60")
    assert "no answer in" in finding.text
    assert finding.broken
    assert finding.mend is not None
    assert "JAX_PLATFORMS=cpu" in finding.mend


def test_a_step_that_fails(probes):
    words = "printf 'jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: 3 GB\\nmore of it' >&2"
    *_, finding = probes(f"{DEVICES}; {words}; exit 1")
    assert (finding.about, finding.broken) == ("step", True)
    assert finding.text == "fails: jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: 3 GB"
    assert finding.mend is not None
    assert "memory" in finding.mend


def test_losses_that_are_not_finite(probes):
    step = '{"about": "step", "loss_g": NaN, "loss_d": 1, "rows": 2, "compile_seconds": 1'
    *_, finding = probes(f'{DEVICES}; echo \'{step}, "step_seconds": 1, "steps": 1}}\'')
    assert finding.broken
    assert "nan" in finding.text


def test_a_gpu_that_jax_does_not_see(probes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(examination, "_GPU", str(tmp_path))
    devices, *_ = probes(DEVICES)
    assert devices.mend is not None
    assert devices.mend.endswith("pip install 'vits_jax[cuda]'")
    assert not devices.broken


def test_what_the_core_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A package that is not there breaks it; another version may do."""
    real = packages.below

    def below(requirements, by=packages.OURS):
        yield from real(requirements, by)
        yield Package("jaxlib==0.1", "jaxlib", "0.2", False, "jax")
        if absent:
            yield Package("soxr>=1", "soxr", None, False, "vits_jax")

    monkeypatch.setattr(packages, "below", below)
    monkeypatch.setattr(examination, "_probe", lambda *words: iter(()))
    absent = False
    assert main(["--seconds", "0"]) == 0
    said = capsys.readouterr().out
    assert "jaxlib 0.2 is installed; jax asks for jaxlib==0.1\n" in said
    assert "trouble: pip install 'jaxlib==0.1'" in said
    absent = True
    assert main(["--seconds", "0"]) == 1
    assert "broken: pip install 'soxr>=1'" in capsys.readouterr().out


def test_what_is_tried_works_here(capsys: pytest.CaptureFixture[str]):
    for part in (probe.audio, probe.phonemes, probe.export):
        part()
    assert capsys.readouterr().out.count('{"about": ') == 3


def test_seconds_that_are_none(capsys: pytest.CaptureFixture[str]):
    assert main(["--seconds", "-1"]) == 2
    assert "--seconds -1: expected 0 or more" in capsys.readouterr().err
