"""What a voice begins with, whichever kind it is, and the settings for so much speech."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints.piper import ckpts
from tests.data.tones import config as voice_json
from tests.evaluation.speaking import VOICE_JSON, config, write_checkpoint, write_onnx
from vits_jax.commands.train import of_flags
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.presets import preset
from vits_jax.recipe.base import CKPT, ONNX, RUN, Base, read_base
from vits_jax.recipe.settings import settings


def resolved(base: Base, speakers: int = 1) -> Config:
    """Of a run with its flags, on data of its rate."""
    flags = {"dataset_dir": "data", "batch_size": "8"} | base.model_flags()
    its = {"sample_rate": base.sample_rate, "num_speakers": speakers}
    return of_flags(flags)[0].replaced(its | {"num_symbols": base.config.model.num_symbols})


@pytest.mark.parametrize("speakers", [1, 2])
def test_a_published_voice(speakers: int, tmp_path: Path):
    names = {f"speaker {i}": i for i in range(speakers)}
    base = read_base(write_onnx(tmp_path / "v.onnx", speakers, speaker_id_map=names))
    assert (base.kind, base.sample_rate, base.phoneme_type) == (ONNX, 8000, "text")
    assert base.own_symbols()
    found, model = resolved(base, speakers), config(speakers).model
    known = ("upsample_rates", "resblock_dilation_sizes", "hidden_channels", "n_layers", "use_sdp")
    for name in (*known, *(("gin_channels",) if speakers > 1 else ())):
        assert getattr(found.model, name) == getattr(model, name), name
    assert found.audio.hop_length == 16
    assert found.segment_frames == 32, "Piper's, of a hop that is no preset's"


def test_a_run_keeps_all_that_it_was_trained_with(tmp_path: Path):
    base = read_base(write_checkpoint(tmp_path / "run"))
    assert (base.kind, base.dataset["phoneme_type"]) == (RUN, "text")
    found = resolved(base, 2)
    assert (found.model, found.audio) == (config().model, config().audio)
    assert read_base(tmp_path / "run" / "checkpoints" / "0").config == base.config


def test_a_ckpt(tmp_path: Path):
    path = ckpts.write(ckpts.ckpt(), tmp_path / "v.ckpt")
    base = read_base(path)
    assert (base.kind, base.language, base.own_symbols()) == (CKPT, None, False)
    model = base.config.model
    beside = tmp_path / "config.json"
    symbols = {"num_symbols": model.num_symbols, "num_speakers": model.num_speakers}
    rate = {"audio": {"sample_rate": base.sample_rate}}
    beside.write_text(json.dumps(voice_json(**symbols, **rate, espeak={"voice": "de"})))
    base = read_base(path)
    assert (base.language, base.voice_config) == ("de", beside)
    found = resolved(base, model.num_speakers)
    assert (found.model, found.audio) == (model, base.config.audio)


def test_what_it_cannot_be(tmp_path: Path):
    run = write_checkpoint(tmp_path / "run")
    with pytest.raises(UserError, match="knows its own"):
        read_base(run, tmp_path / "config.json")
    (run / "checkpoints" / "0" / "_CHECKPOINT_METADATA").write_text("{")
    with pytest.raises(UserError, match="_CHECKPOINT_METADATA: damaged"):
        read_base(run)


def test_the_language_is_the_espeak_voice_or_else_the_code():
    def of(**dataset: object) -> str | None:
        return Base(Path("x"), ONNX, Config(), dataset).language

    assert of(espeak={"voice": "en-gb-x-rp"}, language={"code": "en_GB"}) == "en-gb-x-rp"
    assert of(language={"code": "en_GB"}) == "en-gb"
    assert of() is None


def test_piper_symbols_with_diphthongs_are_pipers():
    pytest.importorskip("piper")
    from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP

    symbols = {symbol: list(ids) for symbol, ids in DEFAULT_PHONEME_ID_MAP.items()}
    base = Base(Path("x"), ONNX, Config(), {"phoneme_id_map": symbols})
    assert not base.own_symbols()
    assert Base(Path("x"), ONNX, Config(), VOICE_JSON).own_symbols()


def test_settings():
    def of(utterances: int) -> dict[str, str]:
        return {setting.flag: setting.value for setting in settings(utterances)}

    assert of(13_100) == of(250) == {"batch_size": "32"}
    assert of(100) == {"batch_size": "16"}
    assert of(40) == {"batch_size": "8", "num_test_examples": "4"}
    assert of(20) == {"batch_size": "2", "validation_split": "0.2", "num_test_examples": "2"}
    for utterances in (1, 2, 5):
        assert of(utterances)["batch_size"] == "1"
        assert float(of(utterances)["validation_split"]) <= 0.3
    for setting in settings(20):
        assert setting.why
        assert setting.value == "2" or setting.flag == "validation_split"


def test_every_preset_is_found_again():
    for name, rate in (("x-low", 16000), ("medium", 22050), ("high", 22050), ("high-44k", 44100)):
        config = preset(name).replaced({"sample_rate": rate})
        for kind in (ONNX, RUN):
            assert Base(Path("x"), kind, config, {}).model_flags() == {"quality": name}
