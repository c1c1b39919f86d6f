"""What is asked for and what is installed, in distributions that the tests make."""

from __future__ import annotations

from pathlib import Path

import pytest

from vits_jax.doctor.packages import asked, below, extras


def _distribution(site: Path, name: str, version: str, *lines: str) -> None:
    directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir()
    head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    (directory / "METADATA").write_text("\n".join([*head, *lines]) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = (
        "Requires-Dist: aa-base<2,>=1",
        "Requires-Dist: aa-windows; sys_platform == 'win32'",
        "Provides-Extra: fast",
        "Requires-Dist: aa-base[plugin]; extra == 'fast'",
        "Provides-Extra: loud",
        "Requires-Dist: aa-horn==1.0; extra == 'loud'",
    )
    _distribution(tmp_path, "aa-top", "1.0", *lines)
    lines = ("Provides-Extra: plugin", "Requires-Dist: aa-driver; extra == 'plugin'")
    _distribution(tmp_path, "aa-base", "1.5", *lines)
    return tmp_path


def _seen(extra: str = "") -> list[tuple[str, str | None, bool, str]]:
    packages = below(asked("aa-top", extra), "aa-top")
    return [(p.name, p.found, p.fits, p.by) for p in packages]


def test_what_is_asked_for_here(site: Path):
    assert extras("aa-top") == ["fast", "loud"]
    assert _seen() == [("aa-base", "1.5", True, "aa-top")]


def test_an_extra_of_a_dependency_is_looked_into(site: Path):
    """As ``jax[cuda12]``: jax alone is always there."""
    base = ("aa-base", "1.5", True, "aa-top")
    assert _seen("fast") == [base, ("aa-driver", None, False, "aa-base")]
    _distribution(site, "aa-driver", "3.0")
    assert _seen("fast") == [base, ("aa-driver", "3.0", True, "aa-base")]


def test_another_version(site: Path):
    assert _seen("loud") == [("aa-horn", None, False, "aa-top")]
    _distribution(site, "aa-horn", "2.0")
    assert _seen("loud") == [("aa-horn", "2.0", False, "aa-top")]
    (wrong,) = below(asked("aa-top", "loud"), "aa-top")
    assert wrong.asked == "aa-horn==1.0"
