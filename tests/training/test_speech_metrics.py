"""What a run says is scored in another process: it arrives under its step, and failing is soft."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.runs import RATE, small, stand_in, write_dataset
from vits_jax.checkpoints import store
from vits_jax.checkpoints.saving import best_step
from vits_jax.data.manifest import load_dataset
from vits_jax.metrics import of_folder
from vits_jax.training import journal, speech_metrics
from vits_jax.training.evaluation import Evaluation, Sound
from vits_jax.training.examples import SpokenExamples
from vits_jax.training.loggers import Records
from vits_jax.training.loop import train
from vits_jax.training.samples import Samples
from vits_jax.training.speech_metrics import SpeechMetrics

ROWS = np.array([0, 1])


class Run:
    """A run that says what its recordings say, more quietly at each step."""

    def __init__(self, directory: Path, **more: object):
        dataset = write_dataset(directory / "data")
        self.run_dir = directory / "run"
        self.run_dir.mkdir()
        config = small(dataset, self.run_dir, **more)
        self.data = load_dataset(dataset, hop_length=16, min_samples=config.audio.min_samples)
        self.records, self.samples = Records(self.run_dir, 0), Samples(self.run_dir)
        self.metrics = SpeechMetrics(self.run_dir, config, self.data, ROWS)

    def validate(self, step: int) -> None:
        for number, row in enumerate(ROWS):
            audio = self.data.audio(row).astype(np.float32) / 32768 / step
            self.samples.keep(step, Sound("a text", audio, RATE, f"{number}"))
        self.metrics.validated(step, self.records)

    def settle(self) -> None:
        """Until the process is done."""
        process = self.metrics._process
        assert process is not None
        process.wait(300)

    def told(self, name: str) -> dict[int, float]:
        return dict(journal.series(journal.read(self.run_dir), name))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and recognisers have tests of their own."""
    monkeypatch.setattr(speech_metrics, "METRICS", "loudness,mcd")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, metrics_every=2, metric="tests.training.test_speech_metrics:seconds")


def seconds(clips):
    """How long a clip is."""
    return [clip.seconds for clip in clips]


def test_every_other_validation_and_the_last_are_scored(run: Run):
    run.validate(1)
    assert run.metrics._process is None
    run.validate(2)
    run.settle()
    run.validate(3)
    assert run.metrics._process is None
    assert run.metrics.ended(run.records)
    # Half as loud: 6 dB; the recordings are as loud as they are.
    spoken, recorded = run.told("speech/loudness"), run.told("recordings/loudness")
    assert spoken.keys() == recorded.keys() == {2, 3}
    assert recorded[2] - spoken[2] == pytest.approx(6.02, abs=0.1)
    assert recorded[3] - spoken[3] == pytest.approx(9.54, abs=0.1)
    assert run.told("speech/mcd")[2] == pytest.approx(0, abs=1)  # FLAC has 16 bits
    assert run.told("speech/seconds")[2] == run.told("recordings/seconds")[2] > 0
    (interval, _) = (line["intervals"] for line in journal.read(run.run_dir) if "intervals" in line)
    low, high = interval["loudness"]
    assert low <= spoken[2] <= high
    assert not run.metrics.ended(run.records), "nothing new"


def test_training_does_not_wait_for_it(run: Run):
    run.validate(1)
    run.validate(2)
    process = run.metrics._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # it takes for ever
    begin = time.monotonic()
    for step in range(3, 8):
        run.validate(step)
    assert run.metrics._process is process, "one at a time"
    assert time.monotonic() - begin < 60
    run.metrics.close()
    assert process.poll() is not None
    assert run.told("speech/loudness") == {}


def test_what_fails_is_said_once(run: Run, caplog):
    for step in range(1, 7):
        run.validate(step)
        if run.metrics._process is not None:
            run.metrics._process.kill()
            run.metrics._process.wait()
    assert caplog.text.count("metrics of speech: cannot be taken") == 1


def test_a_metric_that_raises_leaves_the_others(tmp_path: Path, caplog):
    run = Run(tmp_path, metrics_every=1, metric="tests.training.test_speech_metrics:broken")
    run.validate(1)
    run.settle()
    run.validate(2)
    assert 1 in run.told("speech/loudness")
    assert "broken is not taken: RuntimeError: out of order" in caplog.text
    run.metrics.close()


def broken(clips):
    raise RuntimeError("out of order")


def test_never(tmp_path: Path):
    run = Run(tmp_path, metrics_every=0)
    run.validate(1)
    assert run.metrics._process is None
    assert not run.metrics.ended(run.records)


def test_a_folder_that_names_what_is_not_there(tmp_path: Path):
    (tmp_path / of_folder.ASKED).write_text(
        json.dumps(
            {
                "language": None,
                "metrics": ["cheap"],
                "clips": [{"spoken": "0.flac", "recording": "1.flac", "text": "", "speaker": "0"}],
            }
        )
    )
    with pytest.raises(Exception, match=r"1\.flac: expected a sound file"):
        of_folder.score_folder(tmp_path)


def quiet(clips):
    """How loud a clip is: less is better."""
    return [float(np.abs(clip.audio).max()) for clip in clips]


def test_the_best_by_a_metric_that_comes_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    """Scores come when newer steps are saved: the step that they are of waits for them."""
    stand_in(monkeypatch)
    monkeypatch.setattr(speech_metrics, "METRICS", "loudness")
    loud = iter([0.5, 0.1, 0.4, 0.6])
    here: list[list[int]] = []  # steps that were there at each validation
    run_dir = tmp_path / "run"

    def speak(examples: SpokenExamples, *arguments: object) -> Evaluation:
        here.append(_steps(run_dir))
        tone = next(loud) * np.sin(np.arange(RATE) / 5)
        return Evaluation(shown=[Sound("a text", tone.astype(np.float32), RATE, "0")])

    take = SpeechMetrics._take
    monkeypatch.setattr(SpokenExamples, "__call__", speak)
    monkeypatch.setattr(SpeechMetrics, "_take", lambda self, records, _=0: take(self, records, 300))
    own = {"metric": "tests.training.test_speech_metrics:quiet", "metrics_every": 1}
    config = small(
        write_dataset(tmp_path / "data"),
        run_dir,
        max_epochs=4,
        keep_newest=1,
        keep_best_by="quiet",
        num_test_examples=1,
        **own,
    )
    train(config)
    _, second, third, last = (step for step, _ in _series(run_dir, "speech/quiet"))
    assert here[3][:2] == [second, third], "the third was not scored yet, nor the newest"
    assert _steps(run_dir) == [second, last]
    assert best_step(run_dir).name == str(second)
    assert "no evaluation gives such a number" not in caplog.text


def _series(run_dir: Path, name: str) -> list[tuple[int, float]]:
    return journal.series(journal.read(run_dir), name)


def _steps(run_dir: Path) -> list[int]:
    return sorted(int(step.name) for step in store.step_directories(run_dir / store.DIRECTORY))
