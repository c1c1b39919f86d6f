"""Scores: the recordings' own beside them, what could not be taken, other people's metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.metrics.voices import glottal
from vits_jax.errors import UserError
from vits_jax.metrics import (
    METRICS,
    Clip,
    Metric,
    differences,
    naturalness,
    plugin,
    read,
    score,
    selected,
    speaker,
)
from vits_jax.metrics import metric as metric_module

RATE = 16000


def clips_and_recordings(count: int = 3) -> tuple[list[Clip], list[Clip]]:
    recordings = [
        Clip(glottal(0.6, RATE, 100 + 10 * i), RATE, f"text {i}", name=str(i)) for i in range(count)
    ]
    clips = [Clip(0.5 * r.audio, RATE, r.text, reference=r, name=r.name) for r in recordings]
    return clips, recordings


def seconds(clips: Sequence[Clip]) -> list[float]:
    """How long a clip is.

    That is all.
    """
    return [clip.seconds if clip.name != "1" else float("inf") for clip in clips]


seconds.better, seconds.unit = "higher", "s"  # type: ignore[attr-defined]


def broken(clips: Sequence[Clip]) -> list[float]:
    raise RuntimeError("no weights\nand more")


def wrong(clips: Sequence[Clip]) -> list[float]:
    return [1.0]


wrong.better = "best"  # type: ignore[attr-defined]


def test_the_recordings_own_scores_are_beside():
    clips, recordings = clips_and_recordings()
    table = score(clips, recordings, selected("mel,loudness"))
    loudness, mel = table.results["loudness"], table.results["mel"]
    assert loudness.recordings is not None
    difference = loudness.interval.mean - loudness.recordings.mean
    assert difference == pytest.approx(-6.02, abs=0.01)
    assert mel.recordings is None  # of a recording against itself there is nothing to say
    assert mel.interval.mean > 0
    assert mel.values.shape == (3,)
    assert table.not_taken == {}


def test_what_json_holds():
    clips, recordings = clips_and_recordings()
    metrics = [*selected("loudness,f0"), plugin(f"{__name__}:seconds")]
    values = json.loads(json.dumps(score(clips, recordings, metrics).to_dict(), allow_nan=False))
    assert set(values) == {"metrics", "not_taken"}
    keys = {"mean", "low", "high", "better", "unit", "recordings", "clips"}
    assert set(values["metrics"]["loudness"]) == keys
    assert set(values["metrics"]["loudness"]["recordings"]) == {"mean", "low", "high"}
    assert values["metrics"]["f0"]["recordings"] is None
    assert values["metrics"]["seconds"]["clips"] == [0.6, None, 0.6]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mel", "needs the recording"),
        ("similarity", "needs recordings of the speaker"),
        ("rate", "needs the text"),
    ],
)
def test_what_is_needed_and_not_there_is_told(name: str, why: str):
    table = score([Clip(glottal(0.5, RATE), RATE)], [], selected(f"{name},loudness"))
    assert why in table.not_taken[name]
    assert set(table.results) == {"loudness"}


def test_a_metric_that_raises_ends_nothing():
    clips, recordings = clips_and_recordings()
    metrics = [plugin(f"{__name__}:broken"), Metric("wrong", wrong), *selected("loudness")]
    table = score(clips, recordings, metrics)
    assert table.not_taken["broken"] == "RuntimeError: no weights"
    assert "shape (1,) for 3 clips" in table.not_taken["wrong"]
    assert set(table.results) == {"loudness"}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("f0", "pyworld"),
        ("dnsmos", "speechmos"),
        ("wer", "pocketsphinx"),
        ("loudness", "pyloudnorm"),
        ("similarity", "Resemblyzer"),
    ],
)
def test_a_package_that_is_missing_is_named(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
):
    def missing(wanted: str) -> None:
        raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted)

    monkeypatch.setattr(metric_module.importlib, "import_module", missing)
    monkeypatch.setattr(naturalness, "needed", lambda name: None)
    monkeypatch.setattr(naturalness.importlib.util, "find_spec", lambda name: None)
    for cached in (naturalness._networks, speaker._encoder, *_decoders()):
        cached.cache_clear()
    clips, recordings = clips_and_recordings()
    table = score(clips, recordings, selected(f"{name},mel"))
    for cached in (naturalness._networks, speaker._encoder, *_decoders()):
        cached.cache_clear()
    assert f"{module} is not installed: pip install" in table.not_taken[name]
    assert set(table.results) == {"mel"}


def _decoders():
    from vits_jax.metrics import recognition

    return (recognition._decoder,)


def test_a_language_that_a_recogniser_does_not_know_is_told():
    clips, _ = clips_and_recordings()
    table = score(clips, [], selected("wer,rate"), language="de")
    assert table.not_taken == {"wer": "it knows en alone, this is de"}
    assert set(table.results) == {"rate"}


def test_two_tables_are_compared_clip_by_clip():
    clips, recordings = clips_and_recordings(4)
    louder = [Clip(0.9 * r.audio, RATE, r.text, reference=r) for r in recordings]
    metrics = selected("loudness,mel")
    quiet_table, loud_table = (score(c, recordings, metrics) for c in (clips, louder))
    found = differences(quiet_table, loud_table)
    assert list(found) == ["mel", "loudness"]
    # Nearest is best: by how much further off, not by how much quieter.
    assert found["loudness"].low > 3
    assert found["mel"].low > 0


def test_likeness_leaves_the_clip_itself_out():
    _, recordings = clips_and_recordings()
    other = [Clip(glottal(0.6, RATE, 220, resonances=((400, 60), (2300, 100))), RATE)]
    with_itself = speaker.similarity(recordings[:1], recordings)
    without = speaker.similarity(recordings[:1], recordings[1:])
    np.testing.assert_array_equal(with_itself, without)
    assert np.isnan(speaker.similarity(recordings[:1], recordings[:1])).all()
    assert speaker.similarity(other, recordings)[0] < with_itself[0] - 0.05
    named = [Clip(r.audio, RATE, speaker="ann") for r in recordings]
    assert np.isnan(speaker.similarity(recordings, named)).all()  # nobody's are not ann's


def test_metrics_are_chosen_by_name():
    assert [metric.name for metric in selected("rate, mel")] == ["mel", "rate"]
    assert {metric.cost for metric in selected("cheap")} == {"cheap"}
    assert selected() == list(METRICS)
    with pytest.raises(UserError, match=r"no metric 'mdc': did you mean mcd\?"):
        selected("mdc")
    with pytest.raises(UserError, match="names no metric"):
        selected(" , ")


def test_another_ones_metric_says_what_it_is():
    metric = plugin(f"{__name__}:seconds")
    assert (metric.name, metric.better, metric.unit) == ("seconds", "higher", "s")
    assert metric.about == "How long a clip is."


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("nowhere", "expected package.module:function"),
        ("no.such.module:x", "no.such.module cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:none", "has no function 'none'"),
        (f"{__name__}:wrong", "better is 'best', expected lower, higher, nearest"),
    ],
)
def test_another_ones_metric_that_cannot_be_is_refused(where: str, why: str):
    with pytest.raises(UserError, match=why):
        plugin(where)


def test_clips_come_from_files(tmp_path: Path):
    stereo = np.stack([glottal(0.2, RATE), np.zeros(RATE // 5, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    clip = read(tmp_path / "a.wav", text="A.")
    np.testing.assert_array_equal(clip.audio, stereo[:, 0] / 2)
    assert (clip.name, clip.sample_rate, clip.text) == ("a", RATE, "A.")
    (tmp_path / "b.wav").write_bytes(b"no sound")
    soundfile.write(tmp_path / "c.wav", np.zeros(0), RATE)
    for name in ("b.wav", "c.wav", "d.wav"):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)
    for audio in (np.zeros((2, 2)), np.asarray([np.nan])):
        with pytest.raises(ValueError, match="audio"):
            Clip(audio, RATE)


def test_a_process_that_scores_needs_no_jax(tmp_path: Path):
    """So that a run may have it scored in a process of its own, beside the accelerator's."""
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", glottal(0.5, RATE), RATE)
    code = (
        "import sys\n"
        "from vits_jax.metrics import read, score, selected\n"
        "a, b = (read(path) for path in sys.argv[1:])\n"
        "print(score([a], [b], selected('loudness')).results['loudness'].interval.mean)\n"
        "print(sorted({'jax', 'torch', 'librosa'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, *(str(tmp_path / f"{n}.wav") for n in ("a", "b"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "[]"
