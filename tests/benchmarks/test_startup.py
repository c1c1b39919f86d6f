"""``benchmark startup``: two starts of the command, with a stand-in for Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vits_jax.benchmarks import accelerator, startup
from vits_jax.commands import benchmark as command
from vits_jax.commands.train import configure

# In place of Python: keeps a program where the run would, finds it the second time.
TRAIN = """#!{python}
import json, os, pathlib, sys
cache = pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "vits_jax" / "jax"
assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
cache.mkdir(parents=True, exist_ok=True)
cached = (cache / "program-cache").exists()
(cache / "program-cache").write_bytes(b"12345")
pathlib.Path({argv!r}).open("a").write(json.dumps(sys.argv[1:]) + "\\n")
if {fails!r}:
    sys.exit("error: no such device")
compiling = 1.5 if cached else 20.5
total = compiling + 2
parts = f"imports 2.0, compiling {{compiling}}; beside them: tracing 1.0"
print(f"first step after {{total}} s: {{parts}}", file=sys.stderr)
"""


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the flags of each start are noted."""
    stand_in(tmp_path, monkeypatch, fails=False)
    return tmp_path / "argv"


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
    program = tmp_path / "train"
    argv = str(tmp_path / "argv")
    program.write_text(TRAIN.format(python=sys.executable, argv=argv, fails=fails))
    program.chmod(0o755)
    monkeypatch.setattr(startup.sys, "executable", str(program))


def test_cold_and_cached_part_by_part(argv: Path, tmp_path: Path, capsys) -> None:
    words = ["startup", "--quality=demo", "--batch-size=2", "--minutes=0.2", "--precision=32"]
    words += [f"--directory={tmp_path}", f"--json={tmp_path / 'j'}"]
    assert command.main(words) == 0
    found = json.loads((tmp_path / "j").read_text())
    assert (found["cold_seconds"], found["cached_seconds"]) == (22.5, 3.5)
    assert found["parts"] == {
        "imports": {"cold": 2.0, "cached": 2.0},
        "compiling": {"cold": 20.5, "cached": 1.5},
        "tracing": {"cold": 1.0, "cached": 1.0},
    }
    assert (found["programs"], found["program_bytes"]) == (1, 5)
    assert "| compiling | 20.5 | 1.5 |" in capsys.readouterr().out
    assert "| first step | 22.5 | 3.5 |" in accelerator._markdown({"startup": found})
    runs = set()
    for line in argv.read_text().splitlines():
        module, name, *flags = json.loads(line)
        assert (module, name) == ("-m", "vits_jax.train")
        config = configure(flags)
        assert (config.run.max_steps, config.data.batch_size) == (1, 2)
        runs.add(config.run.run_dir)
    assert len(runs) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["argv", "j", "train"]


def test_a_start_that_fails_says_why(tmp_path: Path, monkeypatch, capsys) -> None:
    stand_in(tmp_path, monkeypatch, fails=True)
    assert command.main(["startup", "--minutes=0.2", f"--directory={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert said == "failed: train ended with exit code 1: error: no such device\n"
