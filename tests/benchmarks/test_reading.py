"""``benchmark input``: figures of batches that are read and of those on the devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vits_jax.benchmarks import accelerator, reading
from vits_jax.commands import benchmark as command
from vits_jax.config import Config
from vits_jax.data.batching.batches import batches

FLAGS = ["--batch-size", "2", "--num-buckets", "2", "--batches", "2", "--step-ms", "1"]


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    make = reading.make_mesh
    monkeypatch.setattr(reading, "make_mesh", lambda: make(1))


def figures(tmp_path: Path, *flags: str) -> dict[str, float]:
    assert command.main(["input", *FLAGS, *flags, "--json", str(tmp_path / "j")]) == 0
    found: dict[str, float] = json.loads((tmp_path / "j").read_text())
    return found


def test_a_synthetic_corpus(tmp_path: Path) -> None:
    found = figures(tmp_path, "--hours", "0.005", "--directory", str(tmp_path))
    assert found["synthetic"] is True
    assert found["speech_hours"] == pytest.approx(0.005, abs=0.003)  # to a clip
    # Of 13,100 lengths, though few were written
    assert (found["num_buckets"], round(found["padding"], 2)) == (2, 0.22)
    assert 0.3 < found["phoneme_padding"] < 0.4
    for name in ("", "on_device_"):
        for figure in ("utterances", "speech_seconds", "bytes"):
            assert found[f"{name}{figure}_per_second"] > 0
        assert 0 <= found[f"{name}waiting_share"] <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["j"]
    lines = accelerator._markdown({"input": found}).splitlines()
    assert [line.split(" | ")[0] for line in lines[5:]] == ["| read", "| on the device"]


def test_a_prepared_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = reading.like_lj_speech()
    directory = tmp_path / "prepared"
    directory.mkdir()
    reading.write_speech(directory, lengths, seconds=30)
    load, loaded = reading.load_dataset, []
    monkeypatch.setattr(
        reading,
        "load_dataset",
        lambda *where, **more: loaded.append(load(*where, **more)) or loaded[0],
    )
    found = figures(tmp_path, "--dataset-dir", str(directory))
    (dataset,) = loaded
    assert found["synthetic"] is False
    assert found["utterances"] == len(dataset)
    assert found["speech_hours"] == pytest.approx(dataset.seconds / 3600)
    assert dataset.samples.tolist() == lengths.samples[: len(dataset)].tolist()
    assert dataset.id_lengths.tolist() == lengths.id_lengths[: len(dataset)].tolist()
    # What was counted is what was read: batches 1 … 20, into the second epoch.
    flags = command.make_parser().parse(["input", *FLAGS])
    plan = reading._plan(dataset, len(dataset), flags, Config())
    counted = [batch for _, batch in batches(dataset, plan, 0, 1, 20)]
    assert plan.steps_per_epoch < 20
    utterances, speech = reading._counted(plan, dataset, 20)
    assert utterances == sum(batch["weight"].sum() for batch in counted)
    samples = sum(batch["audio_lengths"] @ batch["weight"] for batch in counted)
    assert speech == pytest.approx(samples / dataset.config.sample_rate)
