"""The store: whole or not there, found by what it was made from, damage noticed."""

from __future__ import annotations

import json
import random
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from tests.data.tones import recorded, write_store
from vits_jax.data.corpora.audio_files import Recording
from vits_jax.data.storage import shards
from vits_jax.data.storage import store as stores
from vits_jax.data.unusable import Refused
from vits_jax.errors import UserError

MARK = "0123456789abcdef"
NAME = f"audio-{MARK}"


def recordings(count: int = 20) -> list[Recording]:
    random = np.random.default_rng(0)
    return [
        Recording(random.integers(-32768, 32768, 500 + 37 * i).astype(np.int16), 8000 + i, i, i / 4)
        for i in range(count)
    ]


def test_what_goes_in_comes_out_in_order(tmp_path: Path):
    audio = recordings()
    refused = Refused("silent", "silent: all the same")
    outcomes = write_store(tmp_path, MARK, 22050, iter([refused, *audio]))
    assert outcomes == [refused, *range(len(audio))]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    store = stores.open_store(tmp_path / NAME)
    assert (store.sample_rate, store.outcomes) == (22050, outcomes)
    np.testing.assert_array_equal(store.samples, [len(a.samples) for a in audio])
    assert store.facts.tolist() == [tuple(a)[1:] for a in audio]
    with ThreadPoolExecutor(8) as pool:
        for expected, got in zip(audio, pool.map(store.audio, range(len(audio))), strict=True):
            assert got.dtype == np.int16
            np.testing.assert_array_equal(got, expected.samples)


def test_it_takes_two_bytes_a_sample_and_little_else(tmp_path: Path):
    audio = [np.random.default_rng(i).normal(0, 2000, 50_000).astype(np.int16) for i in range(10)]
    write_store(tmp_path, MARK, 22050, map(recorded, audio))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1.1 * 2 * 500_000


def test_no_usable_recording_leaves_nothing(tmp_path: Path):
    refused = [Refused("empty", "empty: no samples")] * 2
    assert write_store(tmp_path, MARK, 22050, refused) == refused
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_stands_for_settings_and_sources():
    marks = {
        stores.fingerprint({"rate": rate}, sources)
        for rate in (1, 2)
        for sources in (["a"], ["b"], ["a", "b"], ["b", "a"], ["ab"])
    }
    assert len(marks) == 10
    assert stores.fingerprint({"rate": 1, "x": 2}, ["a"]) == stores.fingerprint(
        {"x": 2, "rate": 1}, ["a"]
    )


@pytest.mark.parametrize(
    ("path", "record"),
    [
        (f"{NAME}#17", (NAME, 17)),
        (f"{NAME}#", None),
        (f"/data/{NAME}#17", None),
        ("wavs/a.wav", None),
        ("audio-0123#17", None),
        (f"{NAME}#99999999999", None),
    ],
)
def test_names_of_records(path: str, record: tuple[str, int] | None):
    assert stores.parse_record_name(path) == record


def damage(directory: Path, how: str) -> None:
    records = next(directory.rglob("*.array_record*"))
    index = json.loads((directory / "index.json").read_text())
    if how == "records gone":
        records.unlink()
    elif how == "records cut":
        records.write_bytes(records.read_bytes()[:-100])
    elif how == "index gone":
        (directory / "index.json").unlink()
    elif how == "index broken":
        (directory / "index.json").write_text("{")
    elif how == "index of another kind":
        (directory / "index.json").write_text("[]")
    elif how == "lengths broken":
        size = (directory / "samples.npy").stat().st_size
        (directory / "samples.npy").write_bytes(b"x" * size)
    elif how == "another format":
        index["format_version"] += 1
        (directory / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "how",
    [
        "records gone",
        "records cut",
        "index gone",
        "index broken",
        "index of another kind",
        "lengths broken",
        "another format",
    ],
)
def test_damage_is_noticed_and_repaired_by_building_again(tmp_path: Path, how: str):
    write_store(tmp_path, MARK, 22050, recordings(3))
    assert stores.is_whole(tmp_path / NAME)
    damage(tmp_path / NAME, how)
    with pytest.raises(UserError, match=rf"{NAME}.*run preprocess again"):
        stores.open_store(tmp_path / NAME)
    write_store(tmp_path, MARK, 22050, recordings(3))
    np.testing.assert_array_equal(
        stores.open_store(tmp_path / NAME).audio(2), recordings(3)[2].samples
    )


def test_damage_that_leaves_the_size_alone_is_noticed_on_reading(tmp_path: Path):
    audio = [np.full(20_000, i, np.int16) + recordings(1)[0].samples[0] for i in range(3)]
    write_store(tmp_path, MARK, 22050, map(recorded, audio))
    records = next((tmp_path / NAME).rglob("*.array_record*"))
    content = bytearray(records.read_bytes())
    content[64 * 1024 + 60] ^= 1  # in the first record
    records.write_bytes(content)
    store = stores.open_store(tmp_path / NAME)
    with pytest.raises(UserError, match=rf"00000: record 0 of .*{NAME} is damaged: .*: remove "):
        [store.audio(i) for i in range(3)]


def test_a_whole_store_is_not_replaced(tmp_path: Path):
    write_store(tmp_path, MARK, 22050, recordings(3))
    before = (tmp_path / NAME / "index.json").stat().st_ino
    write_store(tmp_path, MARK, 22050, recordings(3))
    assert (tmp_path / NAME / "index.json").stat().st_ino == before


def test_only_stores_are_removed(tmp_path: Path):
    for mark in (MARK, "f" * 16):
        write_store(tmp_path, mark, 22050, recordings(1))
    for name in ("audio-files", "audio-" + "e" * 16):  # a user's own
        (tmp_path / name).mkdir()
    assert stores.remove_others(tmp_path / NAME) == [tmp_path / f"audio-{'f' * 16}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        NAME,
        "audio-" + "e" * 16,
        "audio-files",
    ]


def written(directory: Path) -> Path:
    """A store of some files."""
    refused = Refused("silent", "silent: all the same")
    write_store(directory, MARK, 22050, [*recordings(5), refused, *recordings(9)[5:]])
    return directory / NAME


def everything(directory: Path) -> list[object]:
    """All that a store tells."""
    store = stores.open_store(directory)
    arrays = (store.samples, store.facts, store.digests)
    audio = [store.audio(record).tobytes() for record in range(len(store.samples))]
    told = [store.sample_rate, store.outcomes, store.settings]
    return [*audio, *(array.tobytes() for array in arrays), *told]


def test_flipped_bytes_are_named_or_do_no_harm(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)
    directory = written(tmp_path)
    before, rng = everything(directory), random.Random(1)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    assert len(files) == 10
    named = 0
    for path in files * 6:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert everything(directory) == before, path
        except UserError as error:
            named += 1
            assert "preprocess again" in str(error)
            assert str(directory) in str(error)
            assert "\n" not in str(error)
        path.write_bytes(content)
    assert named > 36  # of those in small files every one


class First(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """How the first release had TFDS write a store's records."""

    name, VERSION = "speech", tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict] = {}

    def __init__(self, audio: list[np.ndarray], **kwargs) -> None:
        self._audio = audio
        super().__init__(**kwargs)

    def _info(self):
        audio = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
        features = tfds.features.FeaturesDict({"audio": audio})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from ((i, {"audio": audio}) for i, audio in enumerate(self._audio))


def test_stores_of_the_first_release_are_read(tmp_path: Path):
    directory = written(tmp_path)
    before = everything(directory)
    ours = directory / shards.PLACE
    # The same records, as TFDS's own writer writes them, and an index without digests.
    audio = [r.samples for r in recordings(9)]
    builder = First(audio, data_dir=tmp_path / "first", file_format="array_record")
    builder.download_and_prepare()
    theirs = tmp_path / "first" / shards.PLACE
    records = [
        ArrayRecordReader(str(next(place.glob("*.array_record*")))).read_all()
        for place in (ours, theirs)
    ]
    assert records[0] == records[1]
    assert (ours / "features.json").read_bytes() == (theirs / "features.json").read_bytes()
    shutil.rmtree(ours)
    shutil.move(theirs, ours)
    index = json.loads((directory / "index.json").read_text())
    del index["digests"], index["sha256"]
    index["files"] = {
        name: (directory / name).stat().st_size
        for name in map(str, (p.relative_to(directory) for p in directory.rglob("*.*y*")))
        if (directory / name).is_file()
    }
    (directory / "index.json").write_text(json.dumps(index))
    assert everything(directory) == before
    info = ours / "dataset_info.json"
    for damaged in (b"{", info.read_bytes().replace(b'"9"', b'"8"')):
        content = info.read_bytes()
        info.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{NAME}/speech/1.0.0 is damaged: .*remove"):
            everything(directory)
        info.write_bytes(content)


def test_others_read_it_as_a_dataset_of_tfds(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 3000)
    builder = tfds.builder_from_directory(written(tmp_path) / shards.PLACE)
    info = builder.info
    assert (info.name, str(info.version), info.file_format.value, info.disable_shuffling) == (
        *("speech", "1.0.0", "array_record", True),
    )
    split = info.splits["train"]
    assert (split.num_examples, split.shard_lengths) == (9, [3, 3, 2, 1])
    audio = recordings(9)
    # Samples, and some 20 bytes around those of each record.
    samples = sum(2 * len(r.samples) for r in audio)
    assert samples < int(split.num_bytes) < samples + 32 * len(audio)
    source = builder.as_data_source("train")
    for i in (8, 0, 3):
        np.testing.assert_array_equal(source[i]["audio"], audio[i].samples)


def test_more_files_than_a_process_may_open(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    directory = written(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    for given, raised in [((520, 4096), [(521, 4096)]), ((521, 521), []), ((soft, hard), [])]:
        monkeypatch.setattr(resource, "getrlimit", lambda _, given=given: given)
        stores.open_store(directory).audio(0)
        assert limits == raised
        limits.clear()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 520))
    with pytest.raises(UserError, match=r"has 9 files, and this process may open 520: .*-Hn 521"):
        stores.open_store(directory).audio(0)
