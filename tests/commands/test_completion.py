"""What a shell completes at Tab."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vits_jax.commands.__main__ import COMMANDS
from vits_jax.commands.completion import main

# What bash does at Tab: the words so far, the last one unfinished.
_TAB = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p vits-jax | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
$function vits-jax "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "data").mkdir()
    (tmp_path / "file").touch()

    def completed(*words: str) -> set[str]:
        command = ["bash", "-c", _TAB, "bash", str(script), "vits-jax", *words]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        return set(done.stdout.split())

    assert completed("") >= set(COMMANDS)
    assert completed("train", "--bat") == {"--batch-size", "--batch-frames"}
    assert completed("train", "--quality", "high") == {"high", "high-44k", "high-48k"}
    assert completed("train", "--dataset-dir", "") == {"data"}
    assert completed("preprocess", "--phonemes-path", "") >= {"data", "file"}
    assert completed("preprocess", "--phoneme-type", "t") == {"text", "thai"}
    assert completed("benchmark", "st") == {"step", "startup"}


def test_zsh(capsys: pytest.CaptureFixture[str]):
    assert main(["zsh"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("#compdef vits-jax")
    assert all(f"\n    {name}:'" in said for name in COMMANDS)
