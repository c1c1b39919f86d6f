"""Voices of 44,100 and 48,000 Hz: from recordings to a file that Piper and sherpa-onnx speak."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sherpa_onnx
import soundfile
import yaml
from piper import PiperVoice

from tests.runs import few_layers
from vits_jax.checkpoints import store
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.commands.export_onnx import main as export_onnx
from vits_jax.commands.infer import main as infer
from vits_jax.commands.preprocess import main as preprocess
from vits_jax.commands.train import configure
from vits_jax.commands.train import main as train
from vits_jax.config import AudioConfig, read_yaml
from vits_jax.config_checks import doubts
from vits_jax.presets import preset_path
from vits_jax.training.prepared import of_dataset
from vits_jax.voice import streaming

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo"
RATE, HOP = 44100, 512

# The preset's audio, strides and segment; of everything else little.
SMALL = {
    **{"hidden_channels": 16, "inter_channels": 16, "filter_channels": 32, "n_layers": 1},
    **{"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]},
    **{"upsample_initial_channel": 32, "discriminator_width": 16, "use_sdp": False},
    **{"num_buckets": 1, "num_test_examples": 1, "validation_split": 0, "batch_size": 2},
    **{"max_steps": 1, "devices": 1},
}


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    with few_layers(1, 1), pytest.MonkeyPatch.context() as patch:
        patch.setattr("vits_jax.voice.graph.flow.N_FLOWS", 1)
        patch.setattr("vits_jax.voice.graph.flow._LAYERS", 1)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few sentences of the demo, at 44,100 Hz."""
    corpus = tmp_path_factory.mktemp("corpus")
    (corpus / "wav").mkdir()
    rows = (DEMO / "metadata.csv").read_text(encoding="utf-8").splitlines()
    few = [row.split("|") for row in rows if "|clara|" in row][:5]
    for name, _, _ in few:
        (corpus / "wav" / name).symlink_to(DEMO / "wav" / name)
    (corpus / "metadata.csv").write_text("".join(f"{name}|{text}\n" for name, _, text in few))
    argv = ["--input-dir", str(corpus), "--output-dir", str(corpus / "data"), "--language=en-us"]
    argv += ["--dataset-format=ljspeech", f"--sample-rate={RATE}", "--max-workers=1"]
    assert preprocess(argv) == 0
    return corpus / "data"


@pytest.fixture(scope="module")
def run(prepared: Path) -> Path:
    config = prepared.parent / "small.yaml"
    config.write_text(yaml.safe_dump(read_yaml(preset_path("high-44k")) | SMALL))
    argv = [f"--config={config}", f"--dataset-dir={prepared}", f"--run-dir={prepared.parent}/run"]
    assert train(argv) == 0
    return prepared.parent / "run"


def test_what_was_trained_on(prepared: Path, run: Path) -> None:
    assert json.loads((prepared / "config.json").read_text())["audio"]["sample_rate"] == RATE
    config = store.read_metadata(store.resolve(run)).config
    assert (config.audio.sample_rate, config.audio.hop_length) == (RATE, HOP)
    assert config.segment_frames == 32


def test_a_sentence_is_spoken(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--phoneme-ids", "1 0 20 0 31 0 2", "--output-dir", str(tmp_path), "--json"]
    assert infer(["--checkpoint", str(run), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    info = soundfile.info(tmp_path / "0.wav")
    assert info.samplerate == RATE
    assert info.frames == sum(each["frames"] for each in told["phonemes"]) * HOP
    assert told["phonemes"][1]["start"] == told["phonemes"][0]["frames"] * HOP / RATE


def test_piper_and_sherpa_speak_the_export(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "voice.onnx"
    assert export_onnx([str(run), str(path), "--streaming"]) == 0
    papers = json.loads(path.with_name("voice.onnx.json").read_text())
    assert (papers["hop_length"], papers["audio"]["sample_rate"]) == (HOP, RATE)
    voice = PiperVoice.load(path, include_alignments=True)
    (chunk,) = voice.synthesize("Seven geese.", include_alignments=True)
    assert chunk.sample_rate == RATE
    assert len(chunk.audio_float_array) % HOP == 0
    # By the hop of the JSON: with Piper's 256 the phonemes would end in the middle.
    assert sum(chunk.phoneme_id_samples) == len(chunk.audio_float_array)
    assert streaming.Player.load(path).hop == HOP
    audio = onnx_voice.read(path).config.audio
    assert (audio.sample_rate, audio.hop_length, audio.filter_length) == (RATE, HOP, 2048)

    vits = sherpa_onnx.OfflineTtsVitsModelConfig(
        model=str(path), tokens=str(tmp_path / "tokens.txt"), lexicon=""
    )
    tts = sherpa_onnx.OfflineTts(
        sherpa_onnx.OfflineTtsConfig(model=sherpa_onnx.OfflineTtsModelConfig(vits=vits))
    )
    assert tts.sample_rate == RATE


# Another rate than the preset's


@pytest.mark.parametrize(
    ("rate", "hop", "instead"),
    [
        *((rate, 256, None) for rate in (16000, 22050, 24000)),
        *((rate, 512, None) for rate in (32000, 44100, 48000)),
        (44100, 256, "5.8 ms.*high-44k or high-48k"),
        (48000, 256, "5.3 ms.*high-44k or high-48k"),
        (22050, 512, "23.2 ms.*x-low, low, medium or high"),
        (8000, 16, None),  # nobody's preset
    ],
)
def test_a_rate_that_is_not_the_presets(rate: int, hop: int, instead: str | None) -> None:
    audio = AudioConfig(sample_rate=rate, hop_length=hop, filter_length=4 * hop)
    found = list(doubts(audio))
    assert len(found) == (instead is not None)
    assert instead is None or re.search(instead, found[0])


@pytest.mark.parametrize(("quality", "said"), [("medium", True), ("high-48k", False)])
def test_a_run_says_so(
    prepared: Path, caplog: pytest.LogCaptureFixture, quality: str, said: bool
) -> None:
    argv = [f"--dataset-dir={prepared}", f"--quality={quality}", "--batch-size=2"]
    of_dataset(configure(argv))
    assert ("warning: 44100 Hz with --hop-length 256 makes frames of 5.8 ms" in caplog.text) == said
