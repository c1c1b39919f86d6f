"""Damage on disk: it is named, and what is restored is what was saved."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints.test_store import METADATA, abstract, save, state, steps
from tests.runs import no_room
from vits_jax.checkpoints import digests, store
from vits_jax.checkpoints.digests import Damaged
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.errors import RunFailed, UserError


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


def flips(path: Path, random: np.random.Generator, count: int) -> Iterator[None]:
    """One flipped bit of a file after the other; each is undone."""
    content = path.read_bytes()
    for _ in range(count):
        place, bit = random.integers(len(content)), 1 << random.integers(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        yield
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_is_named_and_the_step_before_is_used(tmp_path: Path, caplog):
    save(tmp_path, 1, 2)
    newest = tmp_path / "checkpoints" / "2"
    random, tried = np.random.default_rng(0), 0
    for path in files(newest):
        for _ in flips(path, random, 15):
            caplog.clear()
            with pytest.raises(Damaged, match=f"^{re.escape(str(path))}: (damaged|cannot be)"):
                store.read_contents(newest)
            found = restored_step(tmp_path)
            assert found == 1
            (record,) = caplog.records
            assert record.getMessage().startswith(str(path))
            assert record.getMessage().endswith("step 1 is used")
            tried += 1
    assert tried >= 100
    assert restored_step(tmp_path) == 2


def restored_step(run_dir: Path) -> int:
    return int(store.restore(open_checkpoint(run_dir).where, abstract(1))["step"])


def test_without_digests_it_is_damaged_unless_it_never_had_them(tmp_path: Path):
    save(tmp_path, 1)
    step_dir = store.resolve(tmp_path)
    (step_dir / digests.NAME).unlink()
    with pytest.raises(Damaged, match=r"digests\.json: missing"):
        store.read_contents(step_dir)
    metadata = step_dir / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace('"digests"', '"before"'))
    assert store.read_contents(step_dir).metadata.position.epoch == 3


def test_checkpoints_of_before_digests_never_end_in_a_traceback(tmp_path: Path):
    """Orbax finds some of the damage, and says so in many ways."""
    save(tmp_path, 1)
    step_dir = store.resolve(tmp_path)
    (step_dir / digests.NAME).unlink()
    metadata = step_dir / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace('"digests"', '"before"'))
    random, refused = np.random.default_rng(1), 0
    for path in files(step_dir):
        for _ in flips(path, random, 5):
            try:
                contents = store.read_contents(step_dir)
                store.restore(step_dir, abstract(1))
                assert contents.shapes
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 10


def test_files_that_are_lost(tmp_path: Path):
    save(tmp_path, 1)
    step_dir = store.resolve(tmp_path)
    for path in (step_dir / "state").rglob("d/*"):
        path.unlink()
    with pytest.raises(Damaged, match=r"checkpoints/1/state/.*: cannot be read: No such file"):
        store.read_contents(step_dir)
    (step_dir / digests.NAME).unlink()
    with pytest.raises(Damaged, match="checkpoints/1: the checkpoint cannot be read"):
        store.restore(step_dir, abstract(1))


def damage(run_dir: Path, step: int) -> Path:
    path = run_dir / "checkpoints" / str(step) / "_CHECKPOINT_METADATA"
    path.write_bytes(path.read_bytes().replace(b"batch", b"botch"))
    return path


def test_the_damaged_step_is_moved_aside_and_stays_there(tmp_path: Path, caplog):
    save(tmp_path, 1, 2, 3)
    second, third = damage(tmp_path, 2), damage(tmp_path, 3)
    where, contents, damaged = store.newest_whole(tmp_path)
    assert (where.name, contents.metadata.position.epoch) == ("1", 3)
    assert steps(tmp_path) == [1, 2, 3], "looking changes nothing"
    store.set_aside(damaged, where)
    assert steps(tmp_path) == [1]
    assert f"{third}: damaged: its content is not what was saved: step 3 is moved" in caplog.text
    assert f"{second}: damaged" in caplog.text
    for step in (2, 3):
        assert (tmp_path / "checkpoints" / f"{step}.damaged").is_dir()
    save(tmp_path, 3)
    damage(tmp_path, 3)
    where, _, damaged = store.newest_whole(tmp_path)
    store.set_aside(damaged, where)
    assert (tmp_path / "checkpoints" / "3.damaged.2").is_dir()


def test_strict_refuses_and_none_whole_is_never_a_new_beginning(tmp_path: Path):
    save(tmp_path, 1, 2)
    damage(tmp_path, 2)
    with pytest.raises(UserError, match="--strict refuses the step before it"):
        store.newest_whole(tmp_path, strict=True)
    damage(tmp_path, 1)
    with pytest.raises(UserError, match="none of the 1 before is whole either"):
        store.newest_whole(tmp_path)
    assert steps(tmp_path) == [1, 2]


def test_a_full_disk_while_saving(tmp_path: Path, caplog):
    """Said, forgotten as soon as there is room; the last good one stays, nothing half-written."""
    caplog.set_level(logging.WARNING)
    large = state() | {"x": np.arange(1_000_000.0)}
    checkpoints = Checkpoints(tmp_path, Keep(newest=1, best=0))
    checkpoints.save(1, state(1), METADATA)
    checkpoints.settle()
    with no_room(1 << 16):
        for step in (2, 3):
            checkpoints.save(step, large, METADATA)
            checkpoints.settle()
    assert caplog.text.count("could not be saved") == 2
    assert "the last is 1" in caplog.text
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1"]
    checkpoints.save(4, large, METADATA)
    checkpoints.close()
    assert steps(tmp_path) == [4]

    checkpoints = Checkpoints(tmp_path, Keep(newest=1, best=0))
    with no_room(1 << 16):
        checkpoints.save(5, large, METADATA)
        with pytest.raises(RunFailed, match=r"the last one: step 4\): .*make room"):
            checkpoints.close()
    assert steps(tmp_path) == [4]


def test_a_directory_that_vanished(tmp_path: Path, caplog):
    checkpoints = Checkpoints(tmp_path, Keep())
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").touch()
    checkpoints.save(1, state(1), METADATA)
    with pytest.raises(RunFailed, match="the last one: none"):
        checkpoints.close()


def test_numbers_that_cannot_be_read_decide_nothing(tmp_path: Path, caplog):
    save(tmp_path, 1, mel=1.0)
    path = tmp_path / "checkpoints" / "1" / "metrics.json"
    assert store.metrics_of(path.parent) == {"mel": 1.0}
    path.write_text(path.read_text().replace("1.0", "9.0"))
    assert store.metrics_of(path.parent) == {}
    assert "cannot be read" in caplog.text
