"""The ready files for clusters, and the commands on their page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vits_jax import chips
from vits_jax.commands.train import make_parser
from vits_jax.config_checks import seconds_of
from vits_jax.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "examples" / "cluster"
SCRIPTS = [CLUSTER / "slurm.sbatch", CLUSTER / "xpk.sh"]
PAGE = ROOT / "docs" / "scaling.md"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    subprocess.run([shellcheck, "--severity=style", script], check=True)


def test_the_unit(tmp_path: Path) -> None:
    """As systemd reads it, with a user and an interpreter that there are here."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not here")
    text = (CLUSTER / "vits-jax.service").read_text()
    text = text.replace("/home/vits/venv/bin/python", sys.executable).replace("User=vits\n", "")
    unit = tmp_path / "vits-jax.service"
    unit.write_text(text)
    found = subprocess.run([verify, "verify", unit], capture_output=True, text=True)
    assert (found.returncode, "vits-jax" in found.stderr) == (0, False), found.stderr


def commands(text: str) -> list[str]:
    """Command lines of ``train`` and ``plan``, those over several lines too."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return re.findall(r"(?:vits_jax\.train|vits-jax plan) (--[^\n`]*)", joined)


@pytest.mark.parametrize("file", [*CLUSTER.iterdir(), PAGE], ids=lambda path: path.name)
def test_flags_are_flags(file: Path) -> None:
    known = set(make_parser().flags()) | {"--topology", "--hours", "--price", "--json"}
    found = commands(file.read_text())
    for command in found:
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", command):
            assert flag.replace("_", "-") in known, f"{file.name}: {flag}"
    assert found or file.suffix == ".sbatch"  # which hands its own on


def test_the_times_on_the_page() -> None:
    for time in re.findall(r"--max_time (\d\S+)", PAGE.read_text()):
        assert seconds_of(time)


def test_names_of_chips_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one that `plan --topology` knows."""
    names = re.findall(r"`((?:v\d\w?:[\dx]+|[ah]\d00(?:x\d)?))`", PAGE.read_text())
    assert len(names) >= 8
    looked_for: list[str] = []

    def stop(module: str, target: str, extra: str) -> None:
        looked_for.append(target)
        raise UserError("far enough")

    monkeypatch.setattr(chips, "_require", stop)
    for name in names:
        with pytest.raises(UserError, match="far enough"):
            chips.described(name)
    assert looked_for == names
