"""Runs whose directory and dataset lie in an object store, a real server on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import assert_equal, flags, leaves, small, stand_in, write_dataset
from tests.training.object_store import BUCKET, Store
from vits_jax.buckets import open_bucket
from vits_jax.checkpoints import digests
from vits_jax.checkpoints.remote import place_of, pull
from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.checkpoints.store import step_directories
from vits_jax.commands.train import main
from vits_jax.data.manifest import load_dataset
from vits_jax.data.remote import local_view
from vits_jax.errors import UserError
from vits_jax.training import mirror
from vits_jax.training.loop import train

PATIENCE = 600  # seconds: machines are slow and shared


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    found = Store()
    for name, value in found.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "LOOK", 0.05)
    yield found
    found.close()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared directory whose audio is in a store, as preprocess makes them."""
    directory = write_dataset(tmp_path_factory.mktemp("object_store") / "data")
    packed = load_dataset(directory, hop_length=16, min_samples=64)
    lines = (directory / "dataset.jsonl").read_text().splitlines()
    with (directory / "dataset.jsonl").open("w") as file:
        for line, record in zip(lines, packed.records.tolist(), strict=True):
            name = f"{packed.store.directory.name}#{record}"
            file.write(json.dumps(json.loads(line) | {"audio_norm_path": name}) + "\n")
    return directory


def put(store: Store, directory: Path, folder: str) -> str:
    """Copy a directory there; its address."""
    for path in directory.rglob("*"):
        if path.is_file() and path.suffix != ".wav":
            store.put(f"{folder}/{path.relative_to(directory)}", path.read_bytes())
    return f"s3://{BUCKET}/{folder}"


def whole_steps(store: Store, folder: str, tmp_path: Path) -> list[int]:
    """Steps that are complete there; each is what was saved."""
    found = []
    for name in store.names(folder):
        if match := re.fullmatch(rf"{folder}/checkpoints/(\d+)/{digests.NAME}", name):
            target = tmp_path / "looked" / f"{match[1]}-{time.monotonic_ns()}"
            prefix = f"{folder}/checkpoints/{match[1]}/"
            try:
                for part in store.names(prefix):
                    path = target / part.removeprefix(prefix)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(store.get(part))
                digests.check(target)
            except (store.client.exceptions.NoSuchKey, UserError):
                # The run removed it meanwhile: its digests went first, so it is none any more.
                assert name not in store.names(folder)
                continue
            found.append(int(match[1]))
    return sorted(found)


def test_a_corpus_there_is_read_into_memory(store: Store, dataset: Path) -> None:
    url = put(store, dataset, "corpus")
    here, there = (
        load_dataset(place, hop_length=16, min_samples=64) for place in (dataset, local_view(url))
    )
    assert len(here) == len(there)
    for row in range(len(here)):
        assert here.audio(row).tobytes() == there.audio(row).tobytes()
        assert here.phoneme_ids(row).tobytes() == there.phoneme_ids(row).tobytes()
    audio = [p for p in local_view(url).rglob("*array_record*") if ".json" not in p.name]
    assert audio
    assert all(path.is_symlink() and "memfd" in str(path.readlink().readlink()) for path in audio)


@pytest.mark.slow
def test_killed_and_continued_elsewhere(
    store: Store, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of the machine that was killed; bit for bit as undisturbed."""
    corpus, run = put(store, dataset, "corpus"), f"s3://{BUCKET}/run"
    argv = flags(dataset, run, dataset_dir=corpus, checkpoint_steps=5)
    command = [sys.executable, "-m", "tests.training.process", "stand-in"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, *argv, "--max_epochs=-1"], stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not (there := whole_steps(store, "run", tmp_path)) or there[-1] < 10:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.kill()
        process.wait()
    shutil.rmtree(tmp_path / "cache")
    saved = whole_steps(store, "run", tmp_path)
    end = saved[-1] + 7
    subprocess.run([*command, *argv, f"--max_steps={end}"], check=True, timeout=PATIENCE)
    assert whole_steps(store, "run", tmp_path)[-1] == end
    stand_in(monkeypatch)
    train(small(dataset, tmp_path / "undisturbed", max_steps=end))
    assert_equal(leaves(place_of(run, "runs/0")), leaves(tmp_path / "undisturbed"))
    for name in ("config.yaml", "events."):
        assert any(name in there for there in store.names("run"))


def test_a_store_that_goes_away_and_comes_back(
    store: Store, dataset: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    """Slow, refusing, cut in the middle of a save: training goes on, what is there is whole."""
    stand_in(monkeypatch)
    run = f"s3://{BUCKET}/run"
    phases = ({"delay": 0.02}, {"open": False}, {"cut_after": 5_000}, {"delay": 0.02})

    def disturb() -> None:
        normal = vars(store.way).copy()
        for phase in phases:
            vars(store.way).update(normal | phase)
            said = caplog.text.count("cannot be written")
            deadline = time.monotonic() + (PATIENCE if phase == {"open": False} else 2)
            while caplog.text.count("cannot be written") == said and time.monotonic() < deadline:
                whole_steps(store, "run", tmp_path)
                time.sleep(0.1)
        vars(store.way).update(normal)

    trouble = threading.Thread(target=disturb)
    monkeypatch.setattr(mirror, "_LONGEST", 0.2)
    original = mirror.Mirror.__init__

    def begun(*arguments) -> None:
        original(*arguments)
        trouble.start()

    monkeypatch.setattr(mirror.Mirror, "__init__", begun)
    outcome = train(small(dataset, run, max_steps=60))
    trouble.join()
    assert outcome.step == 60
    assert whole_steps(store, "run", tmp_path)[-1] == 60
    assert "cannot be written" in caplog.text


def test_a_store_that_stays_away(
    store: Store, dataset: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """The run fails in words, keeps all of it here, and the same command brings it there."""
    stand_in(monkeypatch)
    run = f"s3://{BUCKET}/run"
    argv = flags(dataset, run, max_steps=6)
    monkeypatch.setattr(mirror, "PATIENCE", 1.0)
    original = mirror.Mirror.__init__

    def begun(self, *arguments) -> None:
        original(self, *arguments)
        store.way.open = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror.Mirror, "__init__", begun)
        assert main(argv) == 1
    said = capsys.readouterr().err
    assert "failed: s3://voices/run does not take the run" in said
    assert step_directories(place_of(run, "runs/0") / "checkpoints")[-1].name == "6"
    assert main(argv) == 2  # it is still away
    assert "cannot be" in capsys.readouterr().err
    store.way.open = True
    assert main(argv) == 0
    assert whole_steps(store, "run", tmp_path)[-1] == 6


def test_damaged_there(store: Store, dataset: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    """What is no checkpoint any more is not taken for one."""
    stand_in(monkeypatch)
    run = f"s3://{BUCKET}/run"
    train(small(dataset, run, max_steps=6, keep_newest=-1))
    *_, before, newest = whole_steps(store, "run", tmp_path)
    name, *_ = (
        n for n in store.names(f"run/checkpoints/{newest}/") if n.endswith("manifest.ocdbt")
    )
    store.put(name, store.get(name)[:-1] + b"?")
    shutil.rmtree(tmp_path / "cache")
    local = tmp_path / "pulled"
    pull(open_bucket(run, "--run-dir"), local)
    assert [int(p.name) for p in step_directories(local / "checkpoints")][-1] == before
    assert f"step {newest} is left there" in caplog.text
    assert open_checkpoint(run).where.name == str(before)


def test_one_thread_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last run left is brought before the thread begins, and nothing of it twice."""
    monkeypatch.setattr(mirror, "LOOK", 0.01)
    for step in ("5", "6"):
        directory = tmp_path / "checkpoints" / step
        directory.mkdir(parents=True)
        for name in ("a", "b", digests.NAME):
            (directory / name).write_text(name)
    brought: list[str] = []

    class Slow:
        url = "s3://somewhere/run"

        def files(self) -> dict[str, int]:
            return {}

        def upload(self, path: Path, name: str) -> None:
            brought.append(name)
            time.sleep(0.1)
            assert path.is_file()

    mirror.Mirror(Slow(), tmp_path).close(patience=1)
    steps = [f"checkpoints/{step}/{name}" for step in "65" for name in ("a", "b", digests.NAME)]
    assert brought == steps


def test_begun_afresh(store: Store, dataset: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    """Who empties the folder begins a new run, whatever lies on this machine."""
    stand_in(monkeypatch)
    run = f"s3://{BUCKET}/run"
    assert train(small(dataset, run, max_steps=4)).step == 4
    assert train(small(dataset, run, max_steps=6)).step == 6
    assert "another run" not in caplog.text
    for name in store.names("run/"):
        store.client.delete_object(Bucket=BUCKET, Key=name)
    assert train(small(dataset, run, max_steps=2)).step == 2
    assert "another run" in caplog.text
    assert whole_steps(store, "run", tmp_path) == [2]
    aside = list((tmp_path / "cache" / "vits_jax" / "runs").glob("*/*.aside"))
    assert [path.name for path in step_directories(aside[0] / "checkpoints")][-1] == "6"


def test_one_run_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that somebody renews is respected, one that nobody does is taken."""
    bucket = open_bucket(f"s3://{BUCKET}/run", "--run-dir")
    other = {"host": "elsewhere", "process": 7, "renewed": 1}
    monkeypatch.setattr(mirror, "LEASE", 0.5)
    bucket.write(".lock", json.dumps(other).encode())
    mirror._take_lock(bucket)
    assert json.loads(bucket.read(".lock"))["process"] == os.getpid()
    bucket.write(".lock", json.dumps(other).encode())
    monkeypatch.setattr(mirror, "LEASE", 60.0)

    def renew() -> None:
        time.sleep(0.3)
        bucket.write(".lock", json.dumps(other | {"renewed": 2}).encode())

    threading.Thread(target=renew).start()
    with pytest.raises(UserError, match="process 7 on elsewhere trains in it"):
        mirror._take_lock(bucket)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/run", "expected a directory, s3://"),
        ("s3://", "expected a bucket"),
        ("gs://voices/run", r'pip install "vits_jax\[gcs\]"'),
    ],
)
def test_other_addresses(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=said):
        open_bucket(url, "--run-dir")
