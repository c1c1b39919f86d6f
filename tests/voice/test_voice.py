"""Speaking: the same audio whatever the padding, few compilations, clear refusals."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.runs import HOP, RATE, SMALL, SYMBOLS
from vits_jax.config import FIELDS, Config
from vits_jax.errors import RunFailed, UserError
from vits_jax.flag_types import convert
from vits_jax.model.networks import initial_parameters
from vits_jax.model.parameters import Parameters
from vits_jax.voice import Voice, speech

IDS = [1, 0, 5, 0, 9, 0, 12, 0, 7, 0, 2]


def audible(config: Config, key: jax.Array) -> Parameters:
    """Fresh weights hold zeros that hide what lies behind them, and speak very quietly."""
    parameters = initial_parameters(config, key)["model_g"]
    noise = jax.random.normal(key, (max(value.size for value in parameters.values()),))
    parameters = {
        name: value + 0.05 * noise[: value.size].reshape(value.shape)
        for name, value in parameters.items()
    }
    return parameters | {"dec.conv_post.weight": 20 * parameters["dec.conv_post.weight"]}


@functools.cache
def voice() -> Voice:
    values = {name: convert(value, FIELDS[name].type, name) for name, value in SMALL.items()}
    config = Config().replaced(
        values | {"num_symbols": len(SYMBOLS), "num_speakers": 2, "sample_rate": RATE}
    )
    parameters = jax.jit(functools.partial(audible, config))(jax.random.key(0))
    dataset = {
        "phoneme_type": "text",
        "phoneme_id_map": {symbol: [i] for i, symbol in enumerate(SYMBOLS)},
        "speaker_id_map": {"ann": 0, "bob": 1},
    }
    return Voice(config, dataset, parameters, speech.make_stages(config))


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """The compilations since the test began."""
    seen: list[str] = []
    listening = [True]

    def listen(event: str, duration: float, **details: str | int) -> None:
        if listening and event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    listening.clear()


def test_what_it_returns():
    audio = voice().synthesize(IDS)
    assert audio.dtype == np.float32
    assert len(audio) % HOP == 0
    assert len(audio) // HOP >= len(IDS)  # no phoneme lasts less than a frame
    assert 0.01 < np.abs(audio).max() <= 1
    assert voice().sample_rate == RATE
    assert voice().speakers == {"ann": 0, "bob": 1}


def test_padding_is_not_heard():
    """Also the last frames, which a decoder reaches over: equal to a shape that fits exactly."""

    def speak(**shape: tuple[int, int]) -> np.ndarray:
        made = voice().stages, voice().parameters, voice().config
        sentence = speech.Sentence(np.asarray(IDS))
        return speech.speak(*made, [sentence], speech.Settings(seed=3), **shape)[0].audio

    audio = speak()
    frames = len(audio) // HOP
    for shape in ((len(IDS), frames), (len(IDS), frames + 1), (200, 1000)):
        np.testing.assert_allclose(speak(shape=shape), audio, rtol=0, atol=1e-5)
    cut = speak(shape=(len(IDS), frames - 5))
    assert len(cut) == (frames - 5) * HOP


def test_the_end_of_the_decoder_matters():
    """Without its mask the decoder would run into the padding: the test above can fail."""
    network = speech.abstract_networks(voice().config).generator
    decoder = speech.bind(network, voice().parameters).dec
    z = jax.random.normal(jax.random.key(0), (1, 40, voice().config.model.inter_channels))
    mask = (jnp.arange(40) < 20).astype(jnp.float32)[None, :, None]
    alone = decoder(z[:, :20], jnp.ones((1, 1, 8)))
    ended = decoder(z * mask, jnp.ones((1, 1, 8)), mask)[:, : 20 * HOP]
    padded = decoder(z * mask, jnp.ones((1, 1, 8)))[:, : 20 * HOP]
    np.testing.assert_allclose(ended, alone, rtol=0, atol=1e-6)
    assert np.abs(padded - alone).max() > 1e-3


def test_the_tenth_sentence_does_not_compile_again(compilations):
    random = np.random.default_rng(0)
    sentences = [random.integers(3, len(SYMBOLS), size=n) for n in range(20, 30)]
    voice().synthesize(sentences[0])
    voice().synthesize(sentences[-1])
    before = len(compilations)
    for sentence in sentences:
        voice().synthesize(sentence)
    assert len(compilations) == before
    voice().synthesize(np.resize(sentences[0], 600))
    assert len(compilations) > before  # longer than all before: it shows that they are counted


def test_seeds_scales_and_speakers():
    say = functools.partial(voice().synthesize, IDS)
    np.testing.assert_array_equal(say(seed=1), say(seed=1))
    assert not np.array_equal(say(seed=1)[: 10 * HOP], say(seed=2)[: 10 * HOP])
    still = functools.partial(say, noise_scale=0.0, noise_w=0.0)
    np.testing.assert_array_equal(still(seed=1), still(seed=2))
    assert not np.array_equal(still(), still(noise_scale=0.5))
    assert len(still(length_scale=3.0)) > 2 * len(still())
    np.testing.assert_array_equal(still(speaker_id=None), still(speaker_id=0))
    ann, bob = still(speaker_id=0), still(speaker_id=1)
    assert len(ann) != len(bob) or not np.allclose(ann, bob, atol=1e-4)


@pytest.mark.parametrize(
    ("ids", "settings", "expected"),
    [
        ([], {}, "phoneme_ids: expected a list of whole numbers that is not empty"),
        ([1, 2.5], {}, "phoneme_ids: expected a list of whole numbers"),
        ([[1], [2, 3]], {}, "phoneme_ids: expected a list of whole numbers"),
        ([1, len(SYMBOLS)], {}, f"phoneme id {len(SYMBOLS)}: expected ids from 0 to"),
        ([-1], {}, "phoneme id -1: expected ids from 0 to"),
        (IDS, {"speaker_id": 2}, "speaker id 2: expected one from 0 to 1"),
        (IDS, {"speaker_id": True}, "speaker id True: expected a whole number"),
        (IDS, {"speaker_id": "anm"}, "no speaker 'anm' in this voice: did you mean 'ann'?"),
        (IDS, {"speaker_id": "xyz"}, "no speaker 'xyz' in this voice: it has ann, bob"),
        (IDS, {"speaker_id": "2"}, "speaker id 2: expected one from 0 to 1"),
        (IDS, {"length_scale": 0.0}, "length_scale 0.0: expected a number above 0"),
        (IDS, {"noise_w": -1.0}, "noise_w -1.0: expected a number of at least 0"),
        (IDS, {"noise_scale": float("nan")}, "noise_scale nan: expected a number"),
        (IDS, {"seed": -1}, "seed -1: expected a whole number from 0"),
        ([5] * 32_769, {}, "32769 phoneme ids in one sentence: expected at most 32768: split it"),
    ],
)
def test_refusals(ids, settings, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        voice().synthesize(ids, **settings)


def test_phonemes_of_a_text():
    sentences, missing = voice().phonemize("ab!!?")
    assert sentences == [[1, 0, SYMBOLS.index("a"), 0, SYMBOLS.index("b"), 0, 2]]
    assert missing == {"!": 2, "?": 1}
    with pytest.raises(UserError, match="nothing in it that this voice can say"):
        voice().phonemize("!!")


def test_without_a_phoneme_map_it_speaks_ids_alone():
    bare = dataclasses.replace(voice(), dataset={})
    np.testing.assert_array_equal(bare.synthesize(IDS), voice().synthesize(IDS))
    with pytest.raises(UserError, match="no phoneme map .* name it with --voice-config"):
        bare.phonemize("ab")


def test_a_text_is_spoken_with_its_pauses(monkeypatch):
    """Sentence by sentence, so that the second does not depend on the first."""
    monkeypatch.setattr(
        "vits_jax.voice.texts.make_phonemizer", lambda *_: lambda text: map(list, text.split("."))
    )
    first, second = (voice().say(text, "bob") for text in ("abc", "dab"))
    both = voice().say("abc.dab", "bob", sentence_silence=0.1)
    gap = both[len(first) : len(first) + RATE // 10]
    np.testing.assert_allclose(both[: len(first)], first, atol=1e-5)
    np.testing.assert_allclose(both[-len(second) :], second, atol=1e-5)
    assert len(both) == len(first) + RATE // 10 + len(second)
    assert not gap.any()
    with pytest.raises(UserError, match="sentence silence -1: expected seconds"):
        voice().say("abc", sentence_silence=-1)


def test_a_batch_says_what_each_says_alone(compilations):
    random = np.random.default_rng(1)
    many = [
        voice().sentence(random.integers(3, len(SYMBOLS), n), n % 2) for n in (5, 40, 9, 12, 70)
    ]
    settings = speech.Settings(seed=5)
    spoken = voice().speak(many, settings)
    for sentence, together in zip(many, spoken, strict=True):
        alone = voice().speak([sentence], settings)[0]
        np.testing.assert_array_equal(alone.durations, together.durations)
        np.testing.assert_allclose(alone.audio, together.audio, rtol=0, atol=1e-5)
        assert len(together.audio) == together.durations.sum() * HOP
        assert len(together.durations) == len(sentence.phoneme_ids)
    again = voice().speak(many, settings, batch_size=2)
    for a, b in zip(again, spoken, strict=True):
        np.testing.assert_allclose(a.audio, b.audio, rtol=0, atol=1e-5)


def test_what_is_too_long_is_cut_off_and_said(monkeypatch, caplog):
    """At a limit that is lower than the real one, which takes gigabytes."""
    monkeypatch.setattr(speech, "MOST_FRAMES", 256)
    of_256 = dataclasses.replace(voice(), stages=speech.make_stages(voice().config))
    sentences = [of_256.sentence(ids) for ids in (IDS, IDS[:5])]
    settings = speech.Settings(length_scale=40.0, noise_w=0.0)
    long, short = of_256.speak(sentences, settings)
    frames = int(long.durations.sum())
    assert frames > 256 > short.durations.sum()
    assert len(long.audio) == 256 * HOP
    assert len(short.audio) == short.durations.sum() * HOP
    (said,) = caplog.messages
    assert said == (
        f"cut off after {256 * HOP / RATE:.1f} s: the sentence of 11 phoneme ids that begins with "
        f"'^_b_f_i_d_$' would last {frames * HOP / RATE:.1f} s; make sentences of it, or lower "
        "the length scale"
    )


def test_no_sound_is_not_silence():
    """Finite weights under which numbers overflow; broken ones are refused when loaded."""
    parameters = voice().parameters
    loud = {"enc_p.proj.weight": parameters["enc_p.proj.weight"] * 1e38}
    broken = dataclasses.replace(voice(), parameters=parameters | loud)
    with pytest.raises(RunFailed, match=r"the sentence of 11 .* numbers that are not finite"):
        broken.synthesize(IDS)
    loud = {"enc_q.proj.weight": parameters["enc_q.proj.weight"] * 1e38}
    broken = dataclasses.replace(voice(), parameters=parameters | loud)
    with pytest.raises(RunFailed, match="the recording came out as numbers that are not finite"):
        broken.convert(np.ones(1000, np.float32), 0, 1)


def test_conversion():
    audio = 0.3 * np.sin(np.arange(50 * HOP + 3) / 7).astype(np.float32)
    converted = voice().convert(audio, "ann", "bob")
    assert converted.dtype == np.float32
    assert converted.shape == (50 * HOP,)
    np.testing.assert_array_equal(converted, voice().convert(audio, 0, 1))
    assert np.abs(converted - voice().convert(audio, "ann", "ann")).max() > 1e-4
    longer = voice().convert(np.concatenate([audio, audio, audio]), 0, 1)  # another padding
    assert longer.shape == (150 * HOP,)


@pytest.mark.parametrize(
    ("samples", "speakers", "expected"),
    [
        (10, (0, 1), "the recording has 10 samples at 8000 Hz: expected at least"),
        ((speech.MOST_FRAMES + 1) * HOP, (0, 1), "s long: expected at most 66 s"),
        (1000, (0, 2), "speaker id 2: expected one from 0 to 1"),
        (1000, ("ann", "eve"), "no speaker 'eve'"),
    ],
)
def test_conversions_that_cannot_be(samples, speakers, expected):
    with pytest.raises(UserError, match=expected):
        voice().convert(np.zeros(samples, np.float32), *speakers)


def test_int16():
    loud = speech.to_int16(np.asarray([0.0, 0.25, -0.5], np.float32))
    assert loud.dtype == np.int16
    assert loud.tolist() == [0, 16383, -32767]
    assert speech.to_int16(np.full(3, 1e-4, np.float32)).max() == 327  # noise stays quiet
    assert speech.to_int16(np.zeros(0, np.float32)).shape == (0,)
