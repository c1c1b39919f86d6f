"""The book: built strictly, of itself alone, true to the commands; and its examples run."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.serving import served
from tools import book, flowchart, piper_flags
from tools.take_screenshots import NoBrowser, chromium
from vits_jax.commands import foreign_flags
from vits_jax.commands.__main__ import COMMANDS
from vits_jax.config import FIELDS, NO_FLAGS
from vits_jax.metrics import Clip, score
from vits_jax.metrics.plugins import plugin

ROOT = Path(__file__).resolve().parent.parent
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
LOADED |= {"video": "src", "audio": "src", "object": "data", "embed": "src", "use": "href"}


class Seen(HTMLParser):
    """Of a page: what a browser loads for it, where its links lead, its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        its = {name: value or "" for name, value in attributes}
        self._style = tag == "style"
        self.anchors |= {its[name] for name in ("id", "name") if name in its}
        self.classes |= set(its.get("class", "").split())
        if tag == "a" and "href" in its:
            self.links.append(its["href"])
        if tag in LOADED and LOADED[tag] in its and its.get("rel") not in ("prev", "next"):
            self.loads.append(its[LOADED[tag]])
        self.loads += [word.split()[0] for word in its.get("srcset", "").split(",") if word]
        self.loads += loaded_by_css(its.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loads += loaded_by_css(data)

    def handle_endtag(self, tag: str) -> None:
        self._style = False


def loaded_by_css(text: str) -> list[str]:
    found = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [a or b for a, b in found]


def outside(addresses: list[str]) -> list[str]:
    """Those that another host would be asked for."""
    return [a for a in addresses if not a.startswith("data:") and (urlsplit(a).netloc or ":" in a)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Seen]:
    return {path: Seen(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_what_would_be_loaded_from_elsewhere_is_seen() -> None:
    page = """<script src="https://a.b/c.js"></script><link rel=stylesheet href="//a.b/d.css">
    <img srcset="e.png 1x, http://a.b/f.png 2x"><style>@import "https://a.b/g.css"; p {
    background: url(https://a.b/h.png) }</style><img src="data:x"><a href="https://a.b">i</a>"""
    found = sorted(address.rpartition("/")[2] for address in outside(Seen(page).loads))
    assert found == ["c.js", "d.css", "f.png", "g.css", "h.png"]


def test_it_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Seen]) -> None:
    assert len(pages) > 20
    for path, page in pages.items():
        assert outside(page.loads) == [], path
        assert "mermaid" not in page.classes, f"{path}: the theme would fetch a script to draw it"
    for path in site.rglob("*.css"):
        assert outside(loaded_by_css(path.read_text(encoding="utf-8"))) == [], path


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Seen]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if path.name == "404.html" or parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchors = pages[target].anchors | {""} if target in pages else {parts.fragment}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_it_says_what_the_code_says(site: Path) -> None:
    commands = (site / "commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f'id="{name}"' in commands
        assert f"usage: vits-jax {name} " in commands
    assert "usage: vits-jax benchmark step " in commands
    api = (site / "api.html").read_text(encoding="utf-8")
    for name in ("load", "voice.Voice.say", "metrics.score", "errors.UserError"):
        assert f'id="vits_jax.{name}"' in api
    assert "<svg" in (site / "architecture.html").read_text(encoding="utf-8")
    shown = (site / "repository" / "examples" / "cluster" / "slurm.sbatch.html").read_text()
    assert "SBATCH" in shown
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert {entry["location"] for entry in index["docs"]} >= {"ten-steps.html", "data.html"}


# In Chromium


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as found:
        yield found


SEARCH = """
const [word, done] = arguments;
document.querySelector("[data-md-toggle=search]").click();
const input = document.querySelector("[data-md-component=search-query]");
input.focus();
input.value = word;
input.dispatchEvent(new Event("keyup", {bubbles: true}));
input.dispatchEvent(new Event("input", {bubbles: true}));
const look = () => {
  const found = [...document.querySelectorAll(".md-search-result__link")].map(a => a.href);
  found.length ? done(found) : setTimeout(look, 100);
};
look();
"""


def test_on_a_phone_it_fits_and_is_searched(address: str) -> None:
    try:
        with chromium() as browser:
            phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
            for name in ("index", "ten-steps", "from-piper", "commands", "how-it-works", "api"):
                browser.get(f"{address}/{name}.html")
                wide = browser.execute_script("return document.documentElement.scrollWidth")
                assert wide <= 390, name
            found = browser.execute_async_script(SEARCH, "wyoming")
            assert any("ten-steps.html" in link or "voices.html" in link for link in found)
            messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
            assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    except NoBrowser as error:
        pytest.skip(str(error))
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert [a for a in asked if not a.startswith((address, "data:", "blob:"))] == []


def test_a_notebook_is_shown_cell_by_cell(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(book, "ROOT", tmp_path)
    cells = [{"cell_type": "markdown", "source": ["# A\n", "b"]}]
    cells += [{"cell_type": "code", "source": ["print(1)"]}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    page = book.shown(tmp_path / "a.ipynb")
    assert page is not None
    assert page.split("\n\n")[1:] == [
        "``````markdown\n# A\nb\n``````",
        "``````python\nprint(1)\n``````",
    ]
    assert book.shown(tmp_path / "nowhere") is None


# Flags of Piper's


def test_every_flag_of_piper_has_an_answer() -> None:
    names = {
        *piper_flags.PIPER1_MODEL,
        *piper_flags.PIPER1_DATA,
        *piper_flags.PIPER1_OTHER,
        *piper_flags.LIGHTNING,
        *piper_flags.OLD,
        *piper_flags.OLD_LIGHTNING,
    }
    for name in names:
        assert book.answer(name), name
    assert set(piper_flags.DIFFERENT) <= names
    assert book.answer("batch_size").startswith("`--batch-size`: of all devices together")
    assert book.answer("trim_silence") == "use preprocess `--no-trim` (taken: `true`)"
    advised = " ".join(advice for _, advice in foreign_flags.OTHERS.values())
    ours = set(FIELDS) - set(NO_FLAGS)
    helps = "".join(book.help_of(name) for name in ("train", "preprocess"))
    for flag in re.findall(r"--[\w-]+", advised):
        assert flag in helps or flag.removeprefix("--").replace("-", "_") in ours, flag


def parameters(package: str, file: str, name: str) -> set[str]:
    """Of a class's ``__init__``, read: importing these takes as long as all else here."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    (found,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    (init,) = (n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    return {arg.arg for arg in (*init.args.args, *init.args.kwonlyargs)} - {"self"}


def test_those_are_the_flags_of_piper() -> None:
    vits = "train/vits"
    model = parameters("piper", f"{vits}/lightning.py", "VitsModel")
    data = parameters("piper", f"{vits}/dataset.py", "VitsDataModule")
    trainer = parameters("lightning", "pytorch/trainer/trainer.py", "Trainer")
    assert set(piper_flags.PIPER1_MODEL) == model
    assert set(piper_flags.PIPER1_DATA) == data
    assert set(piper_flags.LIGHTNING) == trainer


def test_old_preprocess_has_the_same_flags() -> None:
    said = book.help_of("preprocess")
    for name in piper_flags.OLD_PREPROCESS:
        assert f"--{name.replace('_', '-')}" in said


# Flowcharts


def test_a_flowchart_becomes_boxes_and_arrows() -> None:
    svg = flowchart.draw('flowchart TD\n a["one<br>& more"] --> b\n b --> c\n a --> c\n')
    assert svg.count("<rect") == 3
    assert svg.count("marker-end") == 3
    assert ">one</text>" in svg
    assert ">&amp; more</text>" in svg
    heights = re.findall(r'<text x="\S+" y="([\d.]+)" .*?>(\w+)<', svg)
    order = [name for _, name in sorted((float(y), name) for y, name in heights)]
    assert order == ["one", "b", "c"]


@pytest.mark.parametrize("line", ["a -.-> b", "a --> b{c}", "a --> b --> a"])
def test_a_flowchart_that_cannot_be_drawn_is_refused(line: str) -> None:
    with pytest.raises(flowchart.NoFlowchart):
        flowchart.draw(f"flowchart TD\n{line}")


# The examples of docs/extending.md


def examples() -> list[str]:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = re.findall(r"^( *)```python\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def test_the_metric_of_the_page_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brightness.py").write_text(examples()[0])
    monkeypatch.syspath_prepend(tmp_path)
    time = np.arange(16000) / 16000
    low, high = (Clip(np.sin(2 * np.pi * f * time), 16000) for f in (500.0, 3000.0))
    result = score([low, high], [low], [plugin("brightness:brightness")]).results["brightness"]
    np.testing.assert_allclose(result.values, [500, 3000], atol=2)
    assert result.metric.better == "nearest"


def test_the_discriminator_of_the_page_judges() -> None:
    names: dict[str, Any] = {"jax": jax, "nnx": nnx}
    for module in ("discriminator", "layers", "multi_resolution"):
        names |= vars(importlib.import_module(f"vits_jax.model.{module}"))
    exec(examples()[1], names)

    def judged(real: jax.Array, generated: jax.Array) -> jax.Array:
        judge = names["Spectral"](rngs=nnx.Rngs(0))
        features, saved = judge.forward(real, generated)
        own = [f[1:] for f in features]
        return judge.pull_back(saved, own, own, generated)

    # What it computes is the base class's affair (tests/training/test_objective.py).
    audio = jax.ShapeDtypeStruct((1, 2048), jnp.float32)
    assert jax.eval_shape(judged, audio, audio) == audio
