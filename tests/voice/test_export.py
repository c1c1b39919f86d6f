"""Exported voices: verified, complete, played by the runtimes; nothing left of a failed export."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sherpa_onnx
from piper import PiperVoice
from piper.patch_voice_with_alignment import add_alignment_output

import vits_jax
from tests.runs import HOP, RATE, SYMBOLS, no_room
from tests.voice import test_voice
from vits_jax.checkpoints.saving import Checkpoints, Keep
from vits_jax.checkpoints.source import Source
from vits_jax.checkpoints.store import Metadata
from vits_jax.commands.export_onnx import main
from vits_jax.model.networks import GENERATOR
from vits_jax.presets import preset
from vits_jax.state import Position, TrainState
from vits_jax.voice import Voice, cards, companions, export, graph, streaming, verify

COMPANIONS = ["MODEL_CARD.md", "tokens.txt", "voice.onnx", "voice.onnx.json"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two speakers who say something."""
    voice, directory = test_voice.voice(), tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(directory, Keep())
    dataset = dict(voice.dataset) | {"language": {"code": "en-gb"}, "dataset": "letters"}
    metadata = Metadata(voice.config, Position(), dataset, {})
    checkpoints.save(
        12, TrainState(np.array(12, np.int32), {GENERATOR: voice.parameters}).to_dict(), metadata
    )
    checkpoints.close()
    return directory


load_once = functools.cache(vits_jax.load)


@pytest.fixture(autouse=True)
def dataset(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the checkpoint's dataset says instead; the voice is loaded and compiled once."""
    instead: dict[str, Any] = {}

    def of_source(source: Source, *, ema: bool = True) -> Voice:
        voice = load_once(source.where, ema=ema)
        stages = test_voice.voice().stages
        return dataclasses.replace(voice, dataset=dict(voice.dataset) | instead, stages=stages)

    monkeypatch.setattr(export, "of_source", of_source)
    return instead


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("voice")
    assert main([str(checkpoint), str(directory / "voice.onnx"), "--streaming"]) == 0
    return directory / "voice.onnx"


def said(voice: Path, ids: list[int], speaker: int) -> list[np.ndarray]:
    run = verify.session(onnx.load(voice)).run
    return run(None, verify.feed(np.asarray(ids), speaker, 2, (0.0, 1.0, 0.0)))


def test_what_is_written(exported: Path) -> None:
    names = sorted([*COMPANIONS, "voice.streaming"])
    assert sorted(path.name for path in exported.parent.iterdir()) == names
    halves = (exported.parent / "voice.streaming").iterdir()
    assert sorted(path.name for path in halves) == ["decoder.onnx", "encoder.onnx"]
    ids = test_voice.IDS
    for speaker in (0, 1):
        audio = said(exported, ids, speaker)[0][0, 0, 0]
        expected = test_voice.voice().synthesize(ids, speaker, noise_scale=0.0, noise_w=0.0)
        np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-5)
    config = json.loads((exported.parent / "voice.onnx.json").read_text())
    assert (config["audio"]["sample_rate"], config["hop_length"]) == (RATE, HOP)
    assert (config["num_symbols"], config["num_speakers"]) == (len(SYMBOLS), 2)
    assert config["speaker_id_map"] == {"ann": 0, "bob": 1}
    assert config["espeak"] == {"voice": ""}
    assert config["dataset"] == "voice"  # as the file, for wyoming-piper
    assert config["language"]["code"] == "en_GB"  # mended
    assert "quality" not in config["audio"]  # sizes of no preset
    tokens = (exported.parent / "tokens.txt").read_text().splitlines()
    assert tokens == [f"{symbol} {i}" for i, symbol in enumerate(SYMBOLS)]
    metadata = {p.key: p.value for p in onnx.load(exported).metadata_props}
    assert metadata == {
        "model_type": "vits",
        "comment": "piper",
        "language": "English",
        "voice": "",
        "has_espeak": "0",
        "n_speakers": "2",
        "sample_rate": str(RATE),
    }
    card = (exported.parent / "MODEL_CARD.md").read_text()
    facts = ("# Model card for voice", "2 (ann, bob)", "8,000 Hz", "letters", "step 12")
    for fact in (*facts, "Language: en_GB (English, Great Britain)"):
        assert fact in card


def test_piper_speaks_it(exported: Path) -> None:
    voice = PiperVoice.load(exported)
    (chunk,) = voice.synthesize("ab ba")
    assert (chunk.sample_rate, chunk.phonemes) == (RATE, list("ab ba"))
    assert len(chunk.audio_float_array) > 10 * HOP

    timed = PiperVoice.load(exported, include_alignments=True)
    (chunk,) = timed.synthesize("ab ba", include_alignments=True)
    assert chunk.phoneme_alignments is not None
    assert [each.phoneme for each in chunk.phoneme_alignments] == ["^", *"ab ba", "$"]
    total = sum(each.num_samples for each in chunk.phoneme_alignments)
    assert total == len(chunk.audio_float_array)


def test_sherpa_speaks_it(exported: Path) -> None:
    settings = {"tokens": str(exported.parent / "tokens.txt"), "lexicon": ""}
    vits = sherpa_onnx.OfflineTtsVitsModelConfig(model=str(exported), **settings)
    tts = sherpa_onnx.OfflineTts(
        sherpa_onnx.OfflineTtsConfig(model=sherpa_onnx.OfflineTtsModelConfig(vits=vits))
    )
    assert (tts.sample_rate, tts.num_speakers) == (RATE, 2)
    how = sherpa_onnx.GenerationConfig()
    how.sid = 1
    how.phoneme_codepoints = [[ord(letter) for letter in "ab ba"]]
    audio = np.asarray(tts.generate("ab ba", how).samples)
    assert len(audio) > 10 * HOP
    assert np.abs(audio).max() > 0.01


def test_alignments(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    patched = onnx.load(exported)
    assert add_alignment_output(patched) == graph.Names.DURATIONS
    listed = tmp_path / "voice.onnx"
    assert main([str(checkpoint), str(listed), "--alignments"]) == 0
    with pytest.raises(ValueError, match="already marked as output"):
        add_alignment_output(onnx.load(listed))
    audio, durations = said(listed, test_voice.IDS, 0)
    assert durations.shape == (1, 1, len(test_voice.IDS))
    assert durations.sum() * HOP == audio.size
    (chunk,) = PiperVoice.load(listed, include_alignments=True).synthesize(
        "ab", include_alignments=True
    )
    assert chunk.phoneme_id_samples.sum() == len(chunk.audio_float_array)


@pytest.mark.parametrize(
    ("flag", "most", "size"), [("--half", 0.02, 0.65), ("--quantize", 0.5, 0.5)]
)
def test_smaller_forms(exported, checkpoint, tmp_path, capsys, flag, most, size) -> None:
    small = tmp_path / "voice.onnx"
    assert main([str(checkpoint), str(small), flag, "--streaming"]) == 0
    form = "float16" if flag == "--half" else "int8"
    assert f"Weights: {form}" in (tmp_path / "MODEL_CARD.md").read_text()
    whole = onnx.load(exported)
    weights, smaller = (
        sum(len(array.raw_data) for array in onnx.load(path).graph.initializer)
        for path in (exported, small)
    )
    assert smaller < size * weights
    assert len(whole.graph.node) < len(onnx.load(small).graph.node)
    # The error that it costs is not nothing, and what is printed is what was measured.
    agreement = verify.compare(onnx.load(small), test_voice.voice(), export.FORMS[form])
    assert 1e-5 < agreement.audio < most
    assert agreement.within(export.FORMS[form])


def test_the_error_is_printed_and_a_card_that_is_there_kept(checkpoint, tmp_path, caplog) -> None:
    (tmp_path / "MODEL_CARD.md").write_text("mine")
    with caplog.at_level(logging.INFO):
        assert main([str(checkpoint), str(tmp_path / "voice.onnx"), "--half"]) == 0
    assert "float16: 6 utterances against JAX: audio within " in caplog.text
    assert (tmp_path / "MODEL_CARD.md").read_text() == "mine"


# Streaming


def test_chunks_are_the_whole(exported: Path) -> None:
    player = streaming.Player.load(exported)
    ids = np.resize(test_voice.IDS, 61)
    z = player.latent(ids, 1, (0.667, 3.0, 0.8))
    chunks = list(player.chunks(z, 1))
    assert len(chunks) > 3
    whole = player.decode(z, 1)
    np.testing.assert_allclose(np.concatenate(chunks), whole, rtol=0, atol=1e-5)
    player.margin -= 2  # too little is heard: the test above can fail
    narrow = np.concatenate(list(player.chunks(z, 1)))
    assert np.abs(narrow - whole).max() > 1e-5


def test_margins_are_what_piper_needs() -> None:
    margins = {quality: streaming.margin(preset(quality)) for quality in ("medium", "high")}
    assert margins["medium"] in (11, 12)
    assert margins["high"] in (13, 14)


def test_the_pair_says_what_the_voice_says(exported: Path) -> None:
    player = streaming.Player.load(exported)
    z = player.latent(np.asarray(test_voice.IDS), 1, (0.0, 1.0, 0.0))
    whole = said(exported, test_voice.IDS, 1)[0][0, 0, 0]
    np.testing.assert_allclose(player.decode(z, 1), whole, rtol=0, atol=1e-5)


def test_the_player(exported: Path, capfdbinary) -> None:
    assert streaming.main([str(exported), "--text", "ab ba", "--speaker_id", "1"]) == 0
    captured = capfdbinary.readouterr()
    assert len(captured.out) // 2 >= 13 * HOP
    assert b"first audio after" in captured.err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["absent.onnx", "--text", "a"],
            "absent.streaming/encoder.onnx: No such file or directory: export",
        ),
        (["VOICE", "--text", "a", "--speaker-id", "2"], "--speaker-id 2: expected 0 to 1"),
        (["VOICE", "--text", "!"], "nothing in it that this voice can say"),
    ],
)
def test_what_the_player_refuses(exported: Path, capsys, argv, expected) -> None:
    assert streaming.main([str(exported) if word == "VOICE" else word for word in argv]) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


# What fails


def test_a_graph_that_says_something_else_is_not_written(checkpoint, tmp_path, monkeypatch, capsys):
    honest = graph.whole

    def wrong(config: Any, parameters: dict[str, np.ndarray], **more: Any) -> onnx.ModelProto:
        name = "flow.flows.2.post.weight"
        return honest(config, parameters | {name: 1.1 * parameters[name]}, **more)

    monkeypatch.setattr(graph, "whole", wrong)
    assert main([str(checkpoint), str(tmp_path / "out" / "voice.onnx")]) == 1
    assert "does not speak as the checkpoint does" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_wrong_durations_are_found(checkpoint: Path) -> None:
    voice = test_voice.voice()
    parameters = {name: np.asarray(value) for name, value in voice.parameters.items()}
    compare = functools.partial(verify.compare, voice=voice, tolerance=export.FORMS["float32"])
    assert compare(graph.whole(voice.config, parameters)).out_of_reach == 0
    name = "dp.flows.0.m"
    wrong = compare(graph.whole(voice.config, parameters | {name: parameters[name] + 0.02}))
    assert wrong.out_of_reach > 0
    assert not wrong.within(export.FORMS["float32"])


def test_a_full_disk_leaves_nothing(checkpoint, tmp_path, capsys) -> None:
    (tmp_path / "tokens.txt").write_text("before")
    with no_room(20_000):
        assert main([str(checkpoint), str(tmp_path / "voice.onnx")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path / 'voice.onnx'}: cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.txt"]
    assert (tmp_path / "tokens.txt").read_text() == "before"


@pytest.mark.parametrize("phoneme_map", [{}, None])
def test_a_checkpoint_without_a_phoneme_map(
    checkpoint, tmp_path, capsys, dataset, phoneme_map
) -> None:
    dataset["phoneme_id_map"] = phoneme_map
    assert main([str(checkpoint), str(tmp_path / "voice.onnx")]) == 2
    assert f"error: {checkpoint}: no phoneme map in it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_symbols_of_several_characters_stay_out(dataset) -> None:
    symbols = test_voice.voice().phoneme_id_map
    voice = dataclasses.replace(
        test_voice.voice(), dataset={"phoneme_id_map": symbols | {"ai": [4], "\n": [5]}}
    )
    config = companions.voice_config(voice, "anna")
    assert set(config["phoneme_id_map"]) == {*symbols, "\n"}
    assert b"\n 5" not in companions.tokens(config)
    clustered = dict(voice.dataset) | {"vowel_clusters": [["a", "i"]]}
    voice = dataclasses.replace(voice, dataset=clustered)
    assert "ai" in companions.voice_config(voice, "anna")["phoneme_id_map"]


@pytest.mark.parametrize(
    ("name", "rate", "audio", "quality"),
    [
        ("x-low", 16000, {}, "x_low"),
        ("low", 16000, {}, "low"),
        ("medium", 22050, {"quality": ""}, "medium"),
        ("high", 22050, None, "high"),
        ("high-44k", 44100, {}, "high_44k"),
        ("high-48k", 48000, {}, "high_48k"),
        ("demo", 16000, {}, "demo"),
        ("medium", 22050, {"quality": "best"}, "best"),  # the user's
    ],
)
def test_quality_is_the_preset(name: str, rate: int, audio: Any, quality: str) -> None:
    config = preset(name).replaced({"sample_rate": rate, "use_sdp": False})
    dataset = {"phoneme_id_map": test_voice.voice().phoneme_id_map, "audio": audio}
    voice = dataclasses.replace(test_voice.voice(), config=config, dataset=dataset)
    papers = companions.voice_config(voice, "anna")
    assert papers["audio"] == {"sample_rate": rate, "quality": quality}
    assert f"* Quality: {quality}\n" in cards.model_card("a", "1", voice, papers, "x").decode()


def test_published_papers_are_kept(dataset) -> None:
    """Those of a voice that was imported."""
    theirs = {"code": "nl_BE", "family": "nl", "region": "BE", "name_english": "Dutch"}
    papers = {"language": theirs, "audio": {"quality": "low"}, "espeak": {"voice": "nl"}}
    voice = dataclasses.replace(
        test_voice.voice(), dataset=dict(test_voice.voice().dataset) | papers
    )
    config = companions.voice_config(voice, "anna")
    assert (config["language"], config["audio"]["quality"]) == (theirs, "low")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["RUN"], "the following arguments are required: VOICE.onnx"),
        (["RUN", "voice.pt"], "voice.pt: expected a name that ends in .onnx"),
        (["absent", "voice.onnx"], "absent: no such checkpoint"),
        (["RUN", "voice.onnx", "--half", "--quantize"], "expected one of the two"),
        (["RUN", "voice.onnx", "--stream"], "did you mean --streaming?"),
        (["RUN", "FILE/voice.onnx"], "is not a directory"),
        (["RUN", "taken.onnx"], "taken.onnx: cannot be written: a directory has that name"),
    ],
)
def test_bad_arguments(checkpoint, tmp_path, monkeypatch, capsys, argv, expected) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "taken.onnx").mkdir()
    assert main([str(checkpoint) if word == "RUN" else word for word in argv]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert expected in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE", "taken.onnx"]
