"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.runs import no_room
from vits_jax import files
from vits_jax.errors import UserError


def test_all_are_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    wanted = {tmp_path / "a": b"one", tmp_path / "deep" / "er" / "b": b"two"}
    files.write(wanted)
    assert {path: path.read_bytes() for path in wanted} == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "deep"]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~files._umask()


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")
    wanted = {tmp_path / "a": b"one", tmp_path / "new" / "b": bytes(10_000)}
    with no_room(1000), pytest.raises(UserError, match=r"new/b: cannot be written: File too large"):
        files.write(wanted)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken: cannot be written: a directory has that name"):
        files.write({tmp_path / "a": b"one", tmp_path / "taken": b"two"})
    with pytest.raises(UserError, match="a/b: cannot be written: "):
        files.write({tmp_path / "c": b"one", tmp_path / "a" / "b": b"two"})
    assert (tmp_path / "a").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "taken"]


def test_where_one_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.check_writable(tmp_path / "not" / "there" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is not a directory"):
        files.check_writable(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match=f"no permission for {tmp_path}"):
        files.check_writable(tmp_path)
