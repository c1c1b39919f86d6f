"""The shell of the project: how tests run, the layers, presets, the README, the demo corpus."""

from __future__ import annotations

import ast
import graphlib
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from tools.make_demo_corpus import read_rows, speak_all
from vits_jax.checkpoints.growing import Growth
from vits_jax.config import FIELDS, NO_FLAGS, Config, read_yaml
from vits_jax.config_checks import problems
from vits_jax.errors import UserError
from vits_jax.model.networks import abstract_networks, parameter_shapes
from vits_jax.presets import preset, preset_names, preset_path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vits_jax"
DEMO = ROOT / "examples" / "demo"


# How tests run


def test_eight_devices_and_strict_promotion() -> None:
    assert len(jax.devices("cpu")) == 8
    with pytest.raises(ValueError, match="promotion"):
        jnp.ones(2, jnp.float32) + jnp.ones(2, jnp.int32)


def test_a_warning_in_our_code_is_an_error() -> None:
    with pytest.raises(DeprecationWarning, match="old"):
        warnings.warn("old", DeprecationWarning, stacklevel=1)


# The rooms


def _imports(path: Path, *, only_ours: bool = False) -> set[str]:
    """Modules that a file names, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("vits_jax.")} if only_ours else found


FILES = sorted(PACKAGE.rglob("*.py"))

# Each room, and the rooms that it may import from. All may import the files beside the rooms,
# which import no room themselves, but for the doors: those open a command each.
MAY_IMPORT: dict[str, set[str]] = {
    "text": set(),
    "pages": set(),
    "metrics": set(),
    "data": {"text", "pages"},
    "model": set(),
    "state": {"model"},
    "checkpoints": {"text", "data", "model", "state"},
    "voice": {"text", "data", "model", "state", "checkpoints"},
    "training": {"data", "model", "state", "checkpoints", "voice", "metrics", "pages"},
    "benchmarks": {"data", "model", "state", "checkpoints", "voice", "training"},
    "evaluation": {"data", "voice", "metrics", "pages"},
    "recipe": {"text", "data", "checkpoints", "metrics", "training", "pages"},
    "doctor": {"text", "data", "benchmarks"},
    "commands": {
        *("text", "data", "checkpoints", "voice", "metrics", "training", "benchmarks"),
        *("evaluation", "recipe", "doctor"),
    },
}
DOORS = {"train", "preprocess", "check", "infer", "export_onnx", "voice_conversion"}
LAZY = {"__init__": {"voice"}}  # vits_jax.load

# What Piper's trainer writes can be read with torch alone; Piper itself is measured beside.
# The functions import it, so that nothing else needs it.
TORCH = {
    PACKAGE / "data" / "corpora" / "torch_audio.py",
    PACKAGE / "checkpoints" / "piper" / "ckpt_file.py",
    PACKAGE / "benchmarks" / "piper_step.py",
    PACKAGE / "benchmarks" / "piper_voice.py",
}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_row():
    folders = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert folders | {"state"} == set(MAY_IMPORT)
    for folder in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(folder.read_text(encoding="utf-8"))), folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dependencies_point_downwards(path: Path):
    room = _room(path)
    if room in DOORS:
        allowed = {"commands"}
    else:
        allowed = MAY_IMPORT.get(room, LAZY.get(room, set())) | {room}
    rooms = {name.split(".")[1] for name in _imports(path, only_ours=True)} & set(MAY_IMPORT)
    assert rooms <= allowed
    foreign = {name.split(".")[0] for name in _imports(path)}
    if path not in TORCH:
        assert not foreign & {"torch", "tensorflow"}
    if room in ("data", "text"):
        assert not foreign & {"jax", "flax"}


def test_the_picture_of_the_house_is_true():
    """docs/architecture.md: every arrow may be, and every file it names is there."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = page.split("```mermaid\n")[1].split("```")[0]
    arrows = set(re.findall(r"(\w+)(?:\[.*?\])? --> (\w+)", picture))
    assert {room for arrow in arrows for room in arrow} - {"doors"} == set(MAY_IMPORT)
    assert {(a, b) for a, b in arrows if a != "doors" and b not in MAY_IMPORT[a]} == set()
    assert [name for name in re.findall(r"`(\w+(?:/\w+)*\.py)`", page) if not _is_there(name)] == []
    rooms_and_modules = re.findall(rf"`((?:{'|'.join(MAY_IMPORT)})/\w+)`", page)
    assert rooms_and_modules
    for name in rooms_and_modules:
        assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file(), name


def _is_there(name: str) -> bool:
    return (PACKAGE / name).is_file() or (ROOT / name).is_file()


def test_no_circles():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {}
    for module, path in modules.items():
        names = _imports(path, only_ours=True)
        parents = {name.rpartition(".")[0] for name in names - set(modules)}
        graph[module] = (names | parents) & set(modules) - {module, "vits_jax"}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_private_name_is_used_in_another_file():
    borrowed = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        for name in _imports(path, only_ours=True)
        if name.rpartition(".")[2].startswith("_") and not name.endswith("__")
    ]
    assert borrowed == []


def test_no_file_is_long():
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES) <= 400


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, vits_jax; print(sorted({'jax', 'numpy', 'grain'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_flags_imports_nothing_heavy() -> None:
    heavy = {"jax", "flax", "orbax", "grain", "tensorflow", "tensorflow_datasets"}
    heavy |= {"torch", "piper", "onnx", "onnxruntime", "scipy"}
    code = (
        "import sys; from vits_jax.commands import __main__, completion; "
        f"completion.of_all(__main__.COMMANDS); print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Presets


def _preset(name: str) -> Config:
    return preset(name).replaced({"batch_size": 8, "dataset_dir": "data"})


def test_presets_there_are() -> None:
    assert set(preset_names()) >= {
        *("x-low", "low", "medium", "high", "high-44k", "high-48k", "demo")
    }


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_possible_and_leaves_the_rate_to_the_dataset(name: str) -> None:
    values = read_yaml(preset_path(name))
    assert set(values) <= set(FIELDS) - set(NO_FLAGS)
    config = _preset(name)
    assert list(problems(config)) == []
    assert math.prod(config.model.upsample_rates) == config.audio.hop_length


def test_low_is_the_medium_network() -> None:
    assert read_yaml(preset_path("low")) == read_yaml(preset_path("medium"))


def test_high_rates_are_one_network_that_begins_with_high() -> None:
    values = read_yaml(preset_path("high-44k"))
    assert values == read_yaml(preset_path("high-48k"))
    config, high = preset("high-44k"), preset("high")
    for name in ("hop_length", "filter_length", "win_length"):
        assert getattr(config.audio, name) == 2 * getattr(high.audio, name)
    assert config.segment_frames == high.segment_frames == 32
    here, there = (parameter_shapes(c)["model_g"] for c in (config, high))
    growth = Growth(high, config, there, here)
    taken = sum(name in there and growth.rule(name) is not None for name in here)
    header = preset_path("high-44k").read_text(encoding="utf-8").split("\n\n")[0]
    assert f"{taken} of {len(here)} tensors" in header


@pytest.mark.parametrize("name", ["x-low", "medium", "high", "high-44k", "high-48k"])
def test_header_gives_the_command_and_the_true_sizes(name: str) -> None:
    header = preset_path(name).read_text(encoding="utf-8").split("\n\n")[0]
    assert f"--quality {name} " in header
    sizes = [
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network))) / 1e6
        for network in abstract_networks(_preset(name))
    ]
    stated = re.search(r"([\d.]+) M parameters in the generator, ([\d.]+) M", header)
    assert stated is not None
    assert stated.groups() == tuple(f"{size:.1f}" for size in sizes)


def test_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--quality.*'mediun'.*did you mean 'medium'\?.*x-low"):
        preset_path("mediun")


# The README


def test_readme_shows_the_tree_that_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.split("```tree\n")[1].split("```")[0]
    missing = []
    folders: list[str] = []
    for line in tree.splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        names = line.lstrip().split("  ")[0].split()
        folders = folders[:depth]
        missing += [n for n in names if not ROOT.joinpath(*folders, n).exists()]
        folders.append(names[0])
    assert missing == []


# The demo corpus


def test_demo_corpus_is_whole() -> None:
    rows = read_rows(DEMO)
    names = [name for name, _, _ in rows]
    assert sorted(names) == sorted(path.name for path in (DEMO / "wav").iterdir())
    assert len({text for _, _, text in rows}) == len(rows)
    assert len({speaker for _, speaker, _ in rows}) >= 2
    assert sum(path.stat().st_size for path in DEMO.rglob("*")) < 4_000_000
    for name in names:
        audio, rate = soundfile.read(DEMO / "wav" / name, dtype="int16")
        assert (rate, audio.ndim) == (16_000, 1)
        assert 1.0 < len(audio) / rate < 4.0
        assert 8_000 < np.abs(audio.astype(np.int32)).max() < 32_767  # loud, not clipped


def test_demo_corpus_can_be_made_again() -> None:
    rows = read_rows(DEMO)[:2]
    for (name, _, _), made in zip(rows, speak_all(rows), strict=True):
        kept, _ = soundfile.read(DEMO / "wav" / name, dtype="int16")
        assert made.shape == kept.shape
        # Resampling is in floating point: the last bit may differ on another CPU.
        assert np.abs(made.astype(np.int32) - kept).max() <= 1
