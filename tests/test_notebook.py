"""The notebook: what is in it, where it finds itself, killed while it trains and run again."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
import types
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
import soundfile
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell
from packaging.requirements import Requirement
from packaging.version import Version

from tests.commands.test_voice import write_base, write_recordings
from vits_jax.checkpoints import digests, remote, store
from vits_jax.commands.train import configure

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "train_a_voice.ipynb"
TEXT = "A small boat."


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def source(name: str) -> str:
    (found,) = [cell.source for cell in read().cells if cell.id == name]
    return found


# What is in it


def test_it_is_whole_without_outputs_and_its_cells_keep_their_names():
    notebook = read()
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert [name for name in ids if not re.fullmatch(r"[a-z]+(-[a-z]+)?", name)] == []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    tagged = [cell.id for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == ["settings"], "papermill puts other settings behind it"
    # As it is written here: a change shows as that change.
    assert NOTEBOOK.read_text(encoding="utf-8") == nbformat.writes(notebook, indent=1) + "\n"


def test_every_setting_is_a_field_and_no_cell_changes_one():
    fields = re.findall(r"^([A-Z_]+) = .*  # @param ", source("settings"), re.MULTILINE)
    assert fields == re.findall(r"^([A-Z_]+) =", source("settings"), re.MULTILINE)
    for cell in read().cells:
        if cell.cell_type == "code" and cell.id != "settings":
            assert set(fields).isdisjoint(re.findall(r"^\s*([A-Z_]+) =", cell.source, re.M))


def test_what_it_installs_is_pinned_to_versions_that_this_project_takes():
    pinned = dict(re.findall(r"([\w.-]+)==(\S+)", source("install").split('"""')[1]))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*map(Requirement, project["dependencies"])]
    wanted.append(Requirement("vits_jax[preprocess,export,metrics,s3,gcs]"))
    for requirement in wanted:
        if requirement.name == project["name"]:  # also of one extra in another
            for extra in requirement.extras:
                wanted += map(Requirement, project["optional-dependencies"][extra])
            continue
        version = pinned[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    found = re.search(r'^VERSION = "(.+?)"', source("settings"), re.MULTILINE)
    assert found is not None
    assert Version(found[1]).local is None, "a release"


# Its cells by themselves


def names_of(*cells: str, **given: object) -> dict[str, Any]:
    """What cells leave behind, with other settings; commands are only written down."""
    names: dict[str, Any] = {}
    exec(source("settings") + "\n" + source("tools"), names)
    names["commands"] = commands = []
    names["run"] = lambda *words: commands.append([str(word) for word in words])
    names["show"] = lambda page, height=0: None
    names |= given
    for cell in cells:
        exec(source(cell), names)
    return names


COLAB = {"COLAB_RELEASE_TAG": "release"}
KAGGLE = COLAB | {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """What Colab's own package was asked for, and the files that are uploaded."""
    monkeypatch.chdir(tmp_path)
    for name in (*KAGGLE, "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []
    module = types.ModuleType("google.colab")
    its = types.SimpleNamespace(asked=asked, uploads={})
    parts = {
        "drive": types.SimpleNamespace(mount=lambda where: asked.append(f"mount {where}")),
        "auth": types.SimpleNamespace(authenticate_user=lambda: asked.append("sign in")),
        "files": types.SimpleNamespace(upload=lambda: its.uploads),
    }
    for name, part in parts.items():
        setattr(module, name, part)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return its


@pytest.mark.parametrize(
    ("environ", "folder", "here", "run_dir", "asked"),
    [
        ({}, "", "{cwd}/voices/anna", "{cwd}/voices/anna/run", []),
        (COLAB, "", "{drive}/voices/anna", "{drive}/voices/anna/run", ["mount /content/drive"]),
        (COLAB, "/content/v", "/content/v/anna", "/content/v/anna/run", []),
        (COLAB, "gs://b/v/", "{home}/voices/anna", "gs://b/v/anna/run", ["sign in"]),
        (KAGGLE, "", "/kaggle/working/voices/anna", "/kaggle/working/voices/anna/run", []),
    ],
)
def test_it_finds_its_folder(environ, folder, here, run_dir, asked, colab, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = names_of("place", FOLDER=folder)
    places = {"cwd": Path.cwd(), "home": Path.home(), "drive": "/content/drive/MyDrive"}
    assert str(found["here"]) == here.format(**places)
    assert str(found["run_dir"]) == run_dir.format(**places)
    assert colab.asked == asked


def test_an_earlier_session_on_kaggle_is_gone_on_from(colab):
    Path("input/run").mkdir(parents=True)
    names_of("place", EARLIER="input")
    assert Path("voices/anna/run").is_dir()
    Path("voices/anna/new").touch()
    names_of("place", EARLIER="input")
    assert Path("voices/anna/new").exists(), "once"


def test_it_installs_what_the_accelerator_needs(colab, monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("TPU_NAME", "here")
    given = {"ENVIRONMENT": str(Path.cwd()), "FOLDER": "s3://b/v", "VERSION": "1.2"}
    commands = names_of("place", "install", **given)["commands"]
    what = "vits_jax[preprocess,export,metrics,tpu,s3]==1.2"
    assert commands[2] == ["pip", "install", "--quiet", "-c", f"{Path.cwd()}/pinned.txt", what]
    assert commands[-1][:2] == ["python", "-c"]
    assert "jax==" in Path("pinned.txt").read_text()
    given |= {"FOLDER": "", "ACCELERATOR": "gpu", "WHEEL": "a.whl"}
    commands = names_of("place", "install", **given)["commands"]
    what = f"vits_jax[preprocess,export,metrics,cuda] @ {Path('a.whl').absolute().as_uri()}"
    assert commands[2][-1] == what


def test_what_was_uploaded_is_kept(colab, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    given = {"FOLDER": str(Path.cwd())}
    with pytest.raises(Exception, match="no file was chosen"):
        names_of("place", "recordings", **given)
    with zipfile.ZipFile("r.zip", "w") as archive:
        archive.writestr("mine/a.wav", "")
        archive.writestr("__MACOSX/a", "")
    colab.uploads = {"r.zip": b""}
    commands = names_of("place", "recordings", **given)["commands"]
    colab.uploads = {}
    assert names_of("place", "recordings", **given)["commands"] == commands
    mine, corpus = Path.cwd() / "anna" / "recordings" / "mine", Path.cwd() / "anna" / "corpus"
    assert commands == [["vits-jax", "gather", str(mine), str(corpus)]]


def test_a_run_in_a_bucket_is_read_where_it_is_worked_on(colab, monkeypatch):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("dataset.jsonl").write_text("{}\n" * 27)
    given = {"FOLDER": "s3://b/v", "BASE": "", "HOURS": 30.5}
    known = {"data": Path.cwd(), "language": "de", "quality": "low"}
    found = names_of("place", "train", **given, **known)
    assert found["trained"] == remote.place_of("s3://b/v/anna/run", "runs/0")
    config = configure(found["commands"][0][2:])
    assert config.run.run_dir == "s3://b/v/anna/run"
    assert (config.data.batch_size, config.run.max_time) == (4, "01:06:30:00")


# Its commands


def test_a_command_that_fails_ends_it_with_its_line(capsys):
    names: dict[str, Any] = {}
    exec(source("tools"), names)
    code = "print('one'); import sys; sys.exit('error: two')"
    with pytest.raises(names["Stopped"]) as stopped:
        names["run"](sys.executable, "-c", code)
    (told,) = stopped.value._render_traceback_()
    assert re.fullmatch(r"Stopped: python\S* ended with code 1: error: two", told)
    shown, *lines = capsys.readouterr().out.splitlines()
    assert shown == f"$ {shlex.join([sys.executable, '-c', code])}"
    assert lines == ["one", "error: two"]


def started(directory: Path, code: str) -> subprocess.Popen[str]:
    """A cell that runs Python code as a command; the command has printed its process's number."""
    script = directory / "cell.py"
    script.write_text(f"{source('tools')}\nrun({sys.executable!r}, '-c', {code!r})\n")
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("$ ")
    return process


def test_a_command_ends_with_the_kernel(tmp_path):
    """Else a run that nobody sees would hold its directory."""
    wait = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with started(tmp_path, wait) as process:
        assert process.stdout is not None
        command = psutil.Process(int(process.stdout.readline()))
        process.kill()
    psutil.wait_procs([command], timeout=60)
    assert not command.is_running()


def test_the_stop_button_asks_a_command_once(tmp_path):
    asks = "import signal, sys; saved = lambda *_: sys.exit(print('saved', flush=True));"
    asks += "signal.signal(signal.SIGINT, saved);"
    asks += "print('ready', flush=True); signal.pause()"
    with started(tmp_path, asks) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=120)
    assert said == "saved\n"
    assert "Stopped: run this cell again to go on" in error


# Killed while it trains, and run again


class Notebook(NotebookClient):
    """With other settings, as papermill gives them: a cell behind that of the settings."""

    def __init__(self, directory: Path, settings: dict[str, object]) -> None:
        notebook = read()
        (at,) = [i for i, cell in enumerate(notebook.cells) if cell.id == "settings"]
        lines = [f"{name} = {value!r}" for name, value in settings.items()]
        notebook.cells.insert(at + 1, new_code_cell("\n".join(lines), id="given"))
        where = {"metadata": {"path": str(directory)}}
        super().__init__(notebook, timeout=600, kernel_name="python3", resources=where)

    def said(self, name: str) -> str:
        """What a cell printed."""
        (cell,) = [cell for cell in self.nb.cells if cell.id == name]
        return "".join(each.get("text", "") for each in cell.outputs)

    def shown(self, name: str) -> list[str]:
        """What a cell shows."""
        (cell,) = [cell for cell in self.nb.cells if cell.id == name]
        return [each.data["text/html"] for each in cell.outputs if "data" in each]


SMALL = {
    **{"hidden_channels": 16, "inter_channels": 16, "filter_channels": 32, "n_layers": 1},
    **{"upsample_rates": "[16,16]", "upsample_kernel_sizes": "[32,32]", "use_sdp": "false"},
    **{"upsample_initial_channel": 16, "gin_channels": 0, "resblock_kernel_sizes": "[3]"},
    **{"resblock_dilation_sizes": "[[1,2]]", "discriminator_width": 16, "segment_size": 4096},
    **{"recover": "off", "num_buckets": 1, "num_test_examples": 1, "limit_train_batches": 1},
    **{"checkpoint_steps": 1, "check_val_every_n_epoch": 1, "metrics_every": 0},
}


def settings(directory: Path, steps: int) -> dict[str, object]:
    flags = [f"--{name}={value}" for name, value in (SMALL | {"max_steps": steps}).items()]
    return {
        **{"NAME": "anna", "FOLDER": str(directory / "voices"), "TEXT": TEXT, "HOURS": 1.0},
        **{"RECORDINGS": str(directory / "recordings.zip"), "CORPUS_FLAGS": "--max-workers 1"},
        **{"BASE": str(directory / "base.onnx"), "QUALITY": "demo", "BATCH_SIZE": 4},
        **{"TRAIN_FLAGS": " ".join(flags), "EVALUATE_FLAGS": "--limit 1 --metrics cheap"},
        **{"ENVIRONMENT": str(directory / "environment")},
        "VERSION": importlib.metadata.version("vits_jax"),
    }


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is installed, with networks that compile sooner; recordings, a voice."""
    program = tmp_path / "environment" / "bin" / "vits-jax"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.commands.few "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    write_base(tmp_path / "base.onnx")
    folder = write_recordings(tmp_path / "recordings", 8)
    with zipfile.ZipFile(tmp_path / "recordings.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.relative_to(tmp_path))
    return tmp_path


def kill_when_saved(client: NotebookClient, run_dir: Path) -> None:
    """The whole machine, as a session that is cut off: the kernel and its commands."""
    while not any((step / digests.NAME).is_file() for step in saved(run_dir)):
        time.sleep(0.05)
    kernel = psutil.Process(client.km.provisioner.pid)
    for process in (kernel, *kernel.children(recursive=True)):
        process.kill()


def saved(run_dir: Path) -> list[Path]:
    return store.step_directories(run_dir / store.DIRECTORY)


@pytest.mark.slow
def test_killed_in_training_and_run_again_it_ends_with_a_voice_that_piper_speaks(machine: Path):
    here = machine / "voices" / "anna"
    first = Notebook(machine, settings(machine, 100_000))
    killer = threading.Thread(target=kill_when_saved, args=(first, here / "run"), daemon=True)
    killer.start()
    with pytest.raises(DeadKernelError):
        first.execute()
    killer.join()
    assert "$ vits-jax import-onnx" in first.said("base")
    assert "$ vits-jax train" in first.said("train")
    assert not (here / "voice").exists()
    step = int(saved(here / "run")[-1].name)

    again = Notebook(machine, settings(machine, step + 2))
    again.execute()
    assert "pip" not in again.said("install")
    assert "import-onnx" not in again.said("base"), "done before"
    assert "used 8 of 8 rows" in again.said("prepare")
    assert f"continuing at step {step}" in again.said("train")
    assert int(saved(here / "run")[-1].name) == step + 2
    for page, told in (
        ("check", "of 8 rows used"),
        ("look", "Choose by ear"),
        ("evaluate", "anna/run"),
    ):
        (frame,) = again.shown(page)
        assert told in frame, page
    for name in ("listen", "export"):
        assert [shown.count("<audio ") for shown in again.shown(name)] == [1]

    voice = here / "voice" / "en_US-anna-demo.onnx"
    with zipfile.ZipFile(here / "en_US-anna-demo.zip") as archive:
        names = archive.namelist()
    assert {f"voice/{voice.name}", f"voice/{voice.name}.json", "report.html"} <= set(names)
    assert f"$ piper -m {voice}" in again.said("export")
    assert soundfile.info(here / "piper.wav").frames > 1000
