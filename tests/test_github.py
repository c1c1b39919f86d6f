"""What GitHub reads: workflows, issue forms, the citation; held against the published schemas."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import check_jsonschema
import pytest
import yaml
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config")


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_schema(schema: str, paths: list[Path]):
    assert paths
    words = ["--builtin-schema", schema, "--default-filetype", "yaml", *map(str, paths)]
    done = CliRunner().invoke(check_jsonschema.main, words)
    assert done.exit_code == 0, done.output


def _jobs(path: Path) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return jobs


def test_tests_run_on_every_python_there_is_said_to_be():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    for name, job in (("tests", "test"), ("wheel", "alone")):
        matrix = _jobs(GITHUB / "workflows" / f"{name}.yml")[job]["strategy"]["matrix"]
        assert matrix["python-version"] == said


def test_workflows_see_the_tags_and_call_what_the_makefile_has():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    called = set()
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        assert text.count("actions/checkout@") == text.count("fetch-depth: 0")
        called |= set(re.findall(r"make PYTHON=python ([a-z]+)$", text, re.M))
    assert called >= {"lint", "test", "dist", "docs"}
    assert called - targets == set()


def test_every_form_asks_for_the_doctor():
    assert len(FORMS) == 3
    for path in FORMS:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
        (asked,) = [field for field in fields if field.get("id") == "doctor"]
        assert "`vits-jax doctor`" in asked["attributes"]["label"]
