"""What counts as done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vits_jax.errors import UserError
from vits_jax.recipe.record import Done, digest, read_record, stamp

OF = {"--name": "anna"}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "made" / "below").mkdir(parents=True)
    (tmp_path / "made" / "a").write_text("one")
    (tmp_path / "made" / "below" / "b").write_text("two")
    return tmp_path / "made"


def test_content_counts_and_time_does_not(made: Path):
    before = digest([made])
    os.utime(made / "a", (1, 1))
    (made / ".hidden").write_text("work that is taken up again")
    assert digest([made]) == before
    for change in (
        lambda: (made / "a").write_text("oné"),
        lambda: (made / "a").rename(made / "c"),
        lambda: (made / "below" / "b").unlink(),
        lambda: (made / "below" / "more").write_text(""),
    ):
        change()
        assert digest([made]) != before
        before = digest([made])
    assert digest([made, made / "nowhere"]) == ""


def test_of_the_users_files_sizes_and_times_count(made: Path):
    before = stamp([made])
    assert stamp([made]) == before
    os.utime(made / "below" / "b", (1, 1))
    assert stamp([made]) != before


def test_a_record_is_read_back(tmp_path: Path):
    record = read_record(tmp_path, OF)
    assert record.steps == {}
    record.steps["train"] = Done("vits-jax train", "ab", "cd", 12.5, None)
    record.write()
    assert read_record(tmp_path, OF).steps == record.steps


def test_a_directory_is_one_voices(tmp_path: Path):
    read_record(tmp_path, OF).write()
    with pytest.raises(UserError, match="--name anna, not berta: name another --out"):
        read_record(tmp_path, {"--name": "berta"})


@pytest.mark.parametrize("content", ["{", "[]", '{"of": {}, "steps": {"a": {"x": 1}}}', "{}"])
def test_what_cannot_be_read_is_said_and_nothing_counts_as_done(content, tmp_path: Path, caplog):
    (tmp_path / "steps.json").write_text(content)
    assert read_record(tmp_path, OF).steps == {}
    assert "every step is looked at again" in caplog.text
