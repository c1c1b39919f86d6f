"""The book's hook of mkdocs: what its pages show of the code is taken from the code.

``<!-- book: NAME -->`` in a page becomes what `_INSERTS` makes of it. Links to files of the
repository beside docs/ (``../examples/…``) lead to pages that show these files, as the book has
no other place to send a reader to.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from tools import flowchart, piper_flags
from vits_jax.commands.__main__ import COMMANDS
from vits_jax.commands.foreign_flags import OTHERS
from vits_jax.config import FIELDS, NO_FLAGS

ROOT = Path(__file__).resolve().parent.parent
SHOWN = "repository"  # the folder of the book that shows files of the repository
_INSERT = re.compile(r"<!-- book: (\S+) -->")
_OUTSIDE = re.compile(r"\]\(\s*\.\./([\w./-]+?)/?((?:#[\w-]+)?)\)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "sh", ".sbatch": "sh", ".service": "ini"}
_CELLS = {"markdown": "markdown", "code": "python"}
_SUBCOMMANDS = {"benchmark": re.compile(r"\{([\w,-]+)\}")}


# mkdocs' events


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Flowcharts are drawn here, not by a script in the reader's browser."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "mermaid", "class": "flowchart", "format": flowchart.fence}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """A page for each file of the repository that a page links to."""
    pages = list(files.documentation_pages())
    linked = {path for page in pages for path, _ in _OUTSIDE.findall(page.content_string)}
    for path in sorted(linked):
        content = shown(ROOT / path)
        if content is not None:  # else the link stays as it is, and the strict build names it
            page = File.generated(config, f"{SHOWN}/{path}.md", content=content)
            page.inclusion = InclusionLevel.NOT_IN_NAV
            files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what the code says, and turn links to the repository around."""

    def link(found: re.Match[str]) -> str:
        path, anchor = found.groups()
        there = files.get_file_from_path(f"{SHOWN}/{path}.md")
        return found[0] if there is None else f"]({there.src_uri}{anchor})"

    return _INSERT.sub(lambda found: _INSERTS[found[1]](), _OUTSIDE.sub(link, markdown))


# Files of the repository


def shown(path: Path) -> str | None:
    """A page that shows a file, or the texts of a folder; None where there is no such thing."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_file():
        return f"# {name}\n\n{_content(path)}"
    if not path.is_dir():
        return None
    parts = [f"# {name}"]
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix in (*_LANGUAGES, ".csv", ".md", ".txt"):
            parts.append(f"## {file.name}\n\n{_content(file)}")
    return "\n\n".join(parts)


def _content(path: Path) -> str:
    text = path.read_text(encoding="utf-8").rstrip()
    if path.suffix != ".ipynb":
        return _fenced(text, _LANGUAGES.get(path.suffix, "text"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(_fenced(source, _CELLS.get(kind, "text")) for kind, source in cells)


def _fenced(text: str, language: str = "text") -> str:
    return f"``````{language}\n{text}\n``````"


# Helps


def help_of(*words: str) -> str:
    """What ``vits-jax WORDS --help`` prints."""
    module = importlib.import_module(f"vits_jax.commands.{words[0].replace('-', '_')}")
    said = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:]
    # As wide as a page, called as a reader calls it, without what a command does to logging.
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "88", "NO_COLOR": "1"}),
        mock.patch.object(sys, "argv", ["vits-jax"]),
        contextlib.redirect_stdout(said),
        contextlib.suppress(SystemExit),
    ):
        module.main([*words[1:], "--help"])
    root.handlers[:] = before
    return said.getvalue().rstrip()


def _helps() -> str:
    parts = []
    for name, what in COMMANDS.items():
        text = help_of(name)
        parts.append(f"## {name}\n\n{what[:1].upper()}{what[1:]}.\n\n{_fenced(text)}")
        if name in _SUBCOMMANDS:
            (found, *_) = _SUBCOMMANDS[name].findall(text)
            for sub in found.split(","):
                parts.append(f"### {name} {sub}\n\n{_fenced(help_of(name, sub))}")
    return "\n\n".join(parts)


# Flags of Piper's trainers


def answer(name: str) -> str:
    """What `train` has for a flag of Piper's or Lightning's, by its name with ``_``."""
    if name in FIELDS and name not in NO_FLAGS:
        more = piper_flags.DIFFERENT.get(name)
        return f"`--{name.replace('_', '-')}`" + (f": {more}" if more else "")
    if name in ("quality", "config"):
        return f"`--{name}`"
    values, advice = OTHERS[name]
    taken = ", ".join(f"`{value}`" for value in values)
    return f"{_as_code(advice)}" + (f" (taken: {taken})" if taken else "")


def _as_code(advice: str) -> str:
    return re.sub(r"(?<![\w`])(--[\w-]+|vits-jax \w+)", r"`\1`", advice)


def _rows(prefix: str, names: Iterable[str]) -> list[str]:
    return [f"| `--{prefix}{name}` | {answer(name)} |" for name in names]


def _table(rows: Iterable[str]) -> str:
    return "\n".join(["| Piper's | here |", "|---|---|", *rows])


def _flags_of_piper1() -> str:
    data = (name for name in piper_flags.PIPER1_DATA if name not in piper_flags.PIPER1_MODEL)
    return _table(
        [
            *_rows("", piper_flags.PIPER1_OTHER),
            *_rows("data.", data),
            *_rows("model.", piper_flags.PIPER1_MODEL),
            *_rows("trainer.", piper_flags.LIGHTNING),
        ]
    )


def _flags_of_old() -> str:
    return _table(_rows("", (*piper_flags.OLD, *piper_flags.OLD_LIGHTNING)))


_INSERTS: dict[str, Callable[[], str]] = {
    "helps": _helps,
    "flags-of-piper1": _flags_of_piper1,
    "flags-of-the-old-trainer": _flags_of_old,
}
