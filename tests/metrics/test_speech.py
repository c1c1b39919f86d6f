"""Recorded speech: metrics go the way that listeners do."""

from __future__ import annotations

import functools
from pathlib import Path

import librosa
import numpy as np
import pytest
import pyworld

from vits_jax.metrics import Clip, difference, read, recognition, score, selected
from vits_jax.metrics.clips import resampled
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.presets import preset
from vits_jax.voice import graph
from vits_jax.voice.verify import feed, session

SHORT = ("LJ001-0002", "LJ001-0008", "LJ001-0013")  # about two seconds each
# DNSMOS hears the last one once, doubled twice; the others six times, doubled three times.


@pytest.fixture(scope="module")
def recordings(speech: Path) -> list[Clip]:
    lines = (speech / "metadata.csv").read_text(encoding="utf-8").splitlines()
    texts = dict(line.split("|") for line in lines)
    paths = {path.stem: path for path in (speech / "wavs").iterdir()}
    return [read(paths[name], text=texts[name], name=name) for name in SHORT]


def _of(recordings: list[Clip], audios: list[np.ndarray]) -> list[Clip]:
    return [
        Clip(np.clip(audio, -1, 1), r.sample_rate, r.text, reference=r, name=r.name)
        for audio, r in zip(audios, recordings)
    ]


def _noisy(recordings: list[Clip], decibels: float) -> list[Clip]:
    """White noise so many decibels below the speech, the same each time."""
    random = np.random.default_rng(0)
    noise = [random.normal(0, r.audio.std(), len(r.audio)) for r in recordings]
    gain = 10 ** (-decibels / 20)
    return _of(recordings, [r.audio + gain * n for r, n in zip(recordings, noise)])


@functools.cache
def _world(clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    audio, rate = clip.audio.astype(np.float64), clip.sample_rate
    pitch, times = pyworld.dio(audio, rate)
    pitch = pyworld.stonemask(audio, pitch, times, rate)
    power = pyworld.cheaptrick(audio, pitch, times, rate)
    return pitch, power, pyworld.d4c(audio, pitch, times, rate)


def _vocoded(recordings: list[Clip], speed: float = 1.0, formants: float = 1.0) -> list[Clip]:
    """Analysed and made again by WORLD: the pitch and the resonances may be moved."""
    audios = []
    for clip in recordings:
        pitch, power, noise = _world(clip)
        bins = np.arange(power.shape[1])
        moved = np.stack([np.interp(bins / formants, bins, frame) for frame in power])
        period = 5.0 / speed
        audios.append(pyworld.synthesize(pitch * formants, moved, noise, clip.sample_rate, period))
    return _of(recordings, audios)


def _griffin_lim(clip: Clip) -> np.ndarray:
    """Made again of its mel spectrogram, the phases guessed."""
    rate = clip.sample_rate
    filters = librosa.filters.mel(sr=rate, n_fft=1024, n_mels=80)
    mels = filters @ np.abs(librosa.stft(clip.audio, n_fft=1024, hop_length=256))
    magnitude = np.maximum(0, np.linalg.pinv(filters) @ mels)
    return librosa.griffinlim(magnitude, n_iter=8, hop_length=256, random_state=0)


def _untrained(recordings: list[Clip]) -> list[Clip]:
    """What the demo's network says with weights that nobody trained."""
    config = preset("demo").replaced({"batch_size": 1, "dataset_dir": "-", "num_symbols": 40})
    random = np.random.default_rng(0)
    weights = {
        name: (0.1 * random.normal(size=shape)).astype(np.float32)
        for name, shape in parameter_shapes(config)[GENERATOR].items()
    }
    run = session(graph.whole(config, weights)).run
    rate, audios = config.audio.sample_rate, []
    for clip in recordings:
        ids = random.integers(3, 40, size=2 * len(clip.text or ""))
        (audio,) = run(None, feed(ids, 0, 1, (0.667, 1.0, 0.8)))[:1]
        said = Clip(np.clip(audio.reshape(-1), -1, 1), rate)
        audios.append(resampled(said, clip.sample_rate))
    return _of(recordings, audios)


def _means(clips: list[Clip], recordings: list[Clip], names: str) -> list[float]:
    table = score(clips, recordings, selected(names))
    assert table.not_taken == {}
    return [table.results[name].interval.mean for name in names.split(",")]


def test_noise_is_heard_the_more_the_louder_it_is(recordings: list[Clip]):
    ratios = (40.0, 20.0, 5.0)
    noisy = [_noisy(recordings, ratio)[-1:] for ratio in ratios]
    taken = [_means(clips, recordings[-1:], "mel,mcd,dnsmos") for clips in noisy]
    mel, mcd, dnsmos = np.asarray(taken).T
    assert (np.diff(mel) > 0.1).all()
    assert (np.diff(mcd) > 0.5).all()
    (clean,) = _means(recordings[-1:], [], "dnsmos")
    assert (np.diff([clean, *dnsmos]) < 0).all()
    assert dnsmos[-1] < clean - 0.5


def test_another_voice_and_another_speed_are_less_alike(recordings: list[Clip]):
    same = score(_vocoded(recordings), recordings, selected("similarity")).results["similarity"]
    deep = _means(_vocoded(recordings, formants=0.75), recordings, "similarity")[0]
    fast_audio = [clip.audio[::2] for clip in recordings]  # twice as fast, an octave higher
    fast = _means(_of(recordings, fast_audio), recordings, "similarity")[0]
    assert same.recordings is not None
    assert same.interval.mean > same.recordings.mean - 0.15
    assert deep < same.interval.mean - 0.1
    assert fast < same.interval.mean - 0.1


def test_speed_is_what_the_tempo_says(recordings: list[Clip]):
    slow, fast = (_means(_vocoded(recordings, s), recordings, "rate")[0] for s in (1.0, 1.5))
    assert fast / slow == pytest.approx(1.5, rel=0.02)


def test_recordings_beat_a_vocoder_and_that_beats_a_voice_that_learnt_nothing(
    recordings: list[Clip],
):
    names = "mel,mcd,similarity"
    itself = _of(recordings, [r.audio for r in recordings])
    groups = itself, _vocoded(recordings), _untrained(recordings)
    real, vocoded, untrained = (np.asarray(_means(clips, recordings, names)) for clips in groups)
    worse = np.asarray([1, 1, -1])  # of two a lower number is better, of the third a higher
    assert ((vocoded - real) * worse > 0).all(), (real, vocoded)
    assert ((untrained - vocoded) * worse > 0).all(), (vocoded, untrained)
    # WORLD takes noise off, which DNSMOS likes as much as it dislikes what WORLD adds.
    guessed = _of(recordings[-1:], [_griffin_lim(recordings[-1])])
    last = (itself[-1:], guessed, groups[2][-1:])
    opinions = [_means(clips, [], "dnsmos")[0] for clips in last]
    assert opinions[0] > opinions[1] + 0.1 > opinions[2] + 0.2, opinions
    (wer_real, wer_untrained) = (
        recognition.word_errors(clips[1:]) for clips in (itself, groups[2])
    )
    assert difference(wer_real, wer_untrained).mean < -20


def test_a_clip_is_understood_as_well_after_others(recordings: list[Clip]):
    recognition.heard.cache_clear()
    alone = recognition.heard(recordings[0])
    recognition.heard(recordings[1])
    again = Clip(recordings[0].audio.copy(), recordings[0].sample_rate)
    assert recognition.heard(again) == alone != ""
