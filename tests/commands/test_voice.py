"""``vits-jax voice``: what it would do, what it refuses; stopped, continued, to the end."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.tones import write_corpus
from tests.evaluation.speaking import weights
from vits_jax.checkpoints import store
from vits_jax.commands.train import configure
from vits_jax.commands.voice import main
from vits_jax.config import Config
from vits_jax.presets import preset
from vits_jax.text import default_phoneme_id_map
from vits_jax.training import journal
from vits_jax.voice import graph

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo"
RATE = 16000


def network() -> Config:
    """Small, for speech as it comes."""
    sizes = {"hidden_channels": 16, "inter_channels": 16, "filter_channels": 32, "n_layers": 1}
    sizes |= {"upsample_rates": (16, 16), "upsample_kernel_sizes": (32, 32), "use_sdp": False}
    sizes |= {"upsample_initial_channel": 16, "gin_channels": 0, "sample_rate": RATE}
    kernels = {"resblock_kernel_sizes": (3,), "resblock_dilation_sizes": ((1, 2),)}
    return preset("demo").replaced({"num_symbols": 256, **sizes, **kernels})


def write_base(path: Path, **changed: Any) -> Path:
    """A voice to begin with; it knows no stress."""
    path.write_bytes(graph.whole(network(), weights(network())).SerializeToString())
    symbols = {s: ids for s, ids in default_phoneme_id_map().items() if s != "ˈ"}
    its = {"audio": {"sample_rate": RATE}, "num_symbols": 256, "num_speakers": 1}
    its |= {"espeak": {"voice": "en-us"}, "phoneme_id_map": symbols} | changed
    path.with_name(f"{path.name}.json").write_text(json.dumps(its))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base.onnx")


def write_recordings(folder: Path, count: int) -> Path:
    """Clips of the demo corpus, each with its text beside it."""
    folder.mkdir()
    for line in (DEMO / "metadata.csv").read_text().splitlines()[:count]:
        name, _, text = line.split("|")
        shutil.copy(DEMO / "wav" / name, folder)
        (folder / name).with_suffix(".txt").write_text(f"{text}\n")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_recordings(tmp_path / "recordings", 3)


def dry(capsys: pytest.CaptureFixture[str], *argv: object) -> list[list[str]]:
    assert main([str(word) for word in (*argv[:1], "--dry-run", *argv[1:])]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def failure(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(word) for word in argv]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


# What it would do


def test_a_dry_run_prints_the_commands_and_does_nothing(folder, base, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--from", base, "--name", "anna", "--out", out, "--max-time", "02:00"]
    commands = dry(capsys, folder, *flags, "--", "--batch_size=4", "--precision", "32")
    assert not out.exists()
    names = [words[1] for words in commands]
    assert names == ["gather", "check", "preprocess", "import-onnx", "train", "export-onnx"]
    assert commands[1][-2:] == [">", str(out / "check.json")]
    assert "--language en-us --sample-rate 16000" in " ".join(commands[2])
    train, export = commands[4], commands[5]
    config = configure(train[2:])
    assert config.model == network().model.__class__(
        **vars(network().model)
        | {"num_symbols": 256, "segment_size": config.model.segment_size}
        | {"discriminator_width": config.model.discriminator_width}
    )
    assert (config.run.max_time, config.run.stop_when) == ("00:02:00:00", "plateau")
    assert config.run.max_epochs == -1
    assert (config.data.batch_size, config.run.precision) == (4, "32")
    assert train.count("--batch-size") == 0, "the user's takes its place"
    assert config.run.warmstart_ckpt == str(out / "base")
    assert export[2:] == [str(out / "run"), str(out / "voice" / "en_US-anna.onnx"), "--best"]


def test_a_corpus_and_a_run_are_taken_as_they_are(base, tmp_path, capsys):
    corpus = write_corpus(tmp_path / "corpus", ["a|One.", "b|Two."], {"a": 1, "b": 1})
    commands = dry(
        capsys, corpus, "--from", base, "--name", "x_1", "--corpus-flags=--exclude all",
        "--language", "de",
    )  # fmt: skip
    assert [words[1] for words in commands][:2] == ["check", "preprocess"]
    assert commands[0][2] == str(corpus)
    for words in commands[:2]:
        assert "--exclude all" in " ".join(words)
    assert commands[-1][3] == "voices/x_1/voice/de_DE-x_1.onnx"
    assert "--max-time" not in commands[-2]


@pytest.mark.parametrize("quality", ["x-low", "low", "medium", "high", "high-44k"])
def test_published_sizes_are_a_preset_alone(quality, tmp_path, capsys, monkeypatch, folder):
    """Without reading a large voice: what matters is its configuration."""
    from vits_jax.recipe import base as bases

    rate = {"x-low": 16000, "low": 16000, "high-44k": 44100}.get(quality, 22050)
    config = preset(quality).replaced({"sample_rate": rate})
    found = bases.Base(tmp_path / "v.onnx", bases.ONNX, config, {"espeak": {"voice": "de"}})
    monkeypatch.setattr(bases, "read_base", lambda *_: found)
    commands = dry(capsys, folder, "--from", "v.onnx", "--name", "anna")
    train = commands[-2]
    assert train[train.index("--quality") + 1] == quality
    assert not {"--upsample-rates", "--gin-channels", "--segment-size"} & set(train)
    name = Path(commands[-1][3]).name
    assert name == f"de_DE-anna-{quality.replace('-', '_')}.onnx"


def test_symbols_of_its_own_stay(folder, tmp_path, capsys):
    symbols = {symbol: [i] for i, symbol in enumerate("_^$ abcdefghijklmnopqrstuvwxyz.")}
    base = write_base(tmp_path / "b.onnx", phoneme_type="text", phoneme_id_map=symbols)
    out = tmp_path / "out"
    commands = dry(capsys, folder, "--from", base, "--name", "anna", "--out", out)
    for words in commands[1:3]:
        assert words[words.index("--phonemes-path") + 1] == str(out / "phonemes.json")
        assert words[words.index("--phoneme-type") + 1] == "text"


# What it refuses


def test_mistakes_are_told_before_anything_is_done(folder, base, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = ["--from", base, "--name", "anna"]
    for argv, told in (
        ((folder, "--name", "anna"), "--from"),
        ((folder, *good[:2], "--name", "anna b"), "expected letters, digits and _"),
        ((folder, *good[:2], "--name", "en-anna"), "LANGUAGE-NAME-QUALITY.onnx"),
        ((folder, "--from", "none.onnx", *good[2:]), "none.onnx: no such file"),
        ((folder, "--from", folder, *good[2:]), "no checkpoint in it"),
        ((folder, "--from", folder / "clara_01.txt", *good[2:]), "expected .onnx, .ckpt"),
        ((tmp_path / "nowhere", *good), "is not a directory"),
        ((folder, *good, "--max-time", "2h"), "--max-time 2h: expected HH:MM"),
        ((folder, *good, "--max-time", "00:00"), "more than none"),
        ((folder, *good, "--out", folder / "x"), "name a directory elsewhere"),
        ((folder, *good, "--corpus-flags=--exclud all"), "did you mean --exclude?"),
        ((folder, *good, "--", "--batch-sise", "4"), "did you mean --batch-size?"),
        ((folder, *good, "--", "--batch-size", "x"), "--batch-size: got 'x'"),
        ((folder, *good, "--", "--run-dir", "x"), "--run-dir: it is voice's own"),
    ):
        assert told in failure(capsys, *argv), argv
    (folder / "clara_02.txt").unlink()
    assert "1 of 3 recordings have no text" in failure(capsys, folder, *good)
    (folder / "config.json").write_text("{}")
    assert "is prepared already" in failure(capsys, folder, *good)
    assert not (tmp_path / "voices").exists()


def test_a_step_that_fails_ends_it_with_its_code(folder, base, tmp_path, capfd, caplog):
    argv = [str(folder), "--from", str(base), "--name", "anna", "--out", str(tmp_path / "out")]
    argv += ["--recogniser", "nowhere.at_all:hears"]
    assert main(argv) == 2
    said = capfd.readouterr().err
    assert "error: --recogniser nowhere.at_all:hears: nowhere.at_all cannot be imported" in said
    assert "failed: gather ended with exit code 2: vits-jax gather" in caplog.text
    assert json.loads((tmp_path / "out" / "steps.json").read_text())["steps"]["gather"]["code"] == 2
    assert "failed, exit code 2" in (tmp_path / "out" / "voice.html").read_text()


# To the end

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def start(*argv: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.commands.few", "voice", *map(str, argv)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_stopped_in_training_it_goes_on_to_a_voice(base: Path, tmp_path: Path):
    folder, out = write_recordings(tmp_path / "recordings", 12), tmp_path / "out"
    argv = [folder, "--from", base, "--name", "anna", "--out", out, "--max-time", "01:00"]
    argv += [
        "--corpus-flags=--max-workers 1",
        "--",
        "--batch-size",
        "2",
        "--metrics-every",
        "0",
        "--log-every-n-steps",
        "1",
    ]
    argv += ["--check-val-every-n-epoch", "1", "--checkpoint-minutes", "0", "--num-buckets", "1"]
    argv += ["--discriminator-width", "16", "--segment-size", "4096"]
    argv += ["--recover", "off"]  # minutes of fitting, which has tests of its own

    # Asked to stop after its first step
    said = ""
    with start(*argv, "--max-steps", "100000") as process:
        assert process.stderr is not None
        for line in process.stderr:
            said += line
            if line.startswith("step 1 "):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 143, said
    assert "SIGTERM: saving after this step" in said
    assert "stopped at train: the same command goes on from there" in said
    commands = re.findall(r"^\$ vits-jax (\S+)", said, re.MULTILINE)
    assert commands == ["gather", "check", "preprocess", "import-onnx", "train"]
    assert re.search(r"knows nothing of these symbols .*'ˈ' x \d+", said)
    stopped = int(store.resolve(out / "run").name)
    assert 1 <= stopped < 100000
    assert "The voice is not made yet" in (out / "voice.html").read_text()
    assert not (out / "voice").exists()

    # One of the outputs is lost meanwhile: its step is done again, and what is whole is not
    (out / "check.html").write_text("cut off")
    end = str(stopped + 3)
    with start(*argv, "--max-steps", end) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    commands = re.findall(r"^\$ vits-jax (\S+)", said, re.MULTILINE)
    assert commands == ["check", "train", "export-onnx"]
    assert re.findall(r"^(\w+): done before", said, re.MULTILINE) == [
        "gather", "preprocess", "import",
    ]  # fmt: skip
    assert f"continuing at step {stopped}" in said
    given = re.search(r"--max-time (\S+)", said)
    assert given is not None
    assert "00:00:50:00" < given[1] < "00:01:00:00", "an hour of both starts together"
    assert store.resolve(out / "run").name == end
    lines = journal.read(out / "run")
    assert max(line["step"] for line in lines) == int(end)

    # The voice, and the page that tells of it
    voice = out / "voice" / "en_US-anna.onnx"
    assert (
        json.loads(voice.with_name("en_US-anna.onnx.json").read_text())["dataset"] == "en_US-anna"
    )
    page = (out / "voice.html").read_text()
    assert "The voice is made" in page
    assert 'href="voice/en_US-anna.onnx"' in page
    assert 'href="run/report.html"' in page
    assert "12</b>of 12 utterances used" in page
    assert page.count("<pre>vits-jax ") == 6
    assert page.count("<audio ") == 2, "a sentence that was held out, and its recording"
    linked = re.findall(r'href="(?!data:)([^"]*)"', page)
    assert [name for name in linked if not (out / name).is_file()] == []

    # Once more: nothing is left to do
    with start(*argv, "--max-steps", end) as process:
        _, said = process.communicate()
    assert process.returncode == 0, said
    assert "\n$ " not in f"\n{said}"
