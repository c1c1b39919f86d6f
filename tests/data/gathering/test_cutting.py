"""Where long recordings are cut: in pauses alone, whatever is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vits_jax.data.corpora.audio_files import decode, make_vad
from vits_jax.data.gathering.cutting import NO_PAUSE, TOO_SHORT, Cuts, Lengths, cut, cuts_of

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo" / "wav"
CHUNK = 0.05  # seconds


def timeline(*parts: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of speech, silence, speech, … in turn; loudness is lowest amid each silence."""
    speech, loudness = [], []
    for number, seconds in enumerate(parts):
        count = round(seconds / CHUNK)
        speech += [number % 2 == 0] * count
        middle = np.abs(np.arange(count) - (count - 1) / 2) / 1000
        loudness += list(middle if number % 2 else np.ones(count))
    return np.array(speech, bool), np.array(loudness)


def pieces(*parts: float) -> Cuts:
    return cuts_of(*timeline(*parts), CHUNK)


def rounded(cuts: Cuts) -> list[tuple[float, float]]:
    return [(round(first, 2), round(last, 2)) for first, last in cuts.pieces]


def test_what_is_short_stays_in_one_piece():
    assert rounded(pieces(3, 0.5, 4)) == [(0, 7.5)]


def test_the_longest_pause_is_cut_first_and_again_where_a_side_is_still_too_long():
    # 18.4 seconds: at 0.6, then the right side of 13.3 at 0.5.
    cuts = pieces(2, 0.4, 2, 0.6, 6, 0.3, 2.1, 0.5, 4.5)
    assert rounded(cuts) == [(0, 4.65), (4.75, 13.62), (13.65, 18.4)]
    assert cuts.left_out == {}


def test_no_side_of_a_cut_is_shorter_than_two_seconds():
    # The longest pause would leave 1.5 seconds.
    assert rounded(pieces(1.5, 0.9, 6, 0.3, 6)) == [(0, 8.53), (8.53, 14.7)]


def test_a_long_silence_is_always_cut_and_hardly_any_of_it_kept():
    assert rounded(pieces(3, 4, 1.5, 2, 3)) == [(0, 3.25), (6.75, 8.75), (10.25, 13.5)]


def test_silence_at_the_ends_is_cut_off():
    speech, loudness = timeline(0, 5, 3, 7)
    assert rounded(cuts_of(speech, loudness, CHUNK)) == [(4.75, 8.25)]


def test_what_is_no_sentence_or_has_no_pause_is_left_out_and_counted():
    cuts = pieces(0.4, 3, 5, 3, 16)
    assert rounded(cuts) == [(3.15, 8.65)]
    assert {reason: np.round(s, 2).tolist() for reason, s in cuts.left_out.items()} == {
        TOO_SHORT: [0.4],
        NO_PAUSE: [16.0],
    }


def test_silence_alone_gives_nothing():
    assert cuts_of(np.zeros(400, bool), np.ones(400), CHUNK) == Cuts([], {})


def test_it_is_cut_at_the_quietest_place():
    speech, loudness = timeline(8, 0.4, 8)
    for number, ends in ((161, (8.075, 8.15)), (166, (8.25, 8.325))):  # keeping 0.25 at most
        loudness[number] = -number
        (_, last), (first, _) = cuts_of(speech, loudness, CHUNK).pieces
        assert (round(last, 3), round(first, 3)) == ends


@given(
    st.lists(st.tuples(st.floats(0.05, 9), st.floats(0.05, 3)), min_size=1, max_size=40),
    st.booleans(),
)
def test_whatever_is_said_no_speech_is_cut(parts: list[tuple[float, float]], ends_in_speech: bool):
    speech, loudness = timeline(
        *[x for pair in parts for x in pair][: -1 if ends_in_speech else None]
    )
    lengths = Lengths()
    cuts = cuts_of(speech, loudness, CHUNK, lengths)
    spoken = 0
    before = 0.0
    for first, last in cuts.pieces:
        assert before <= first < last <= len(speech) * CHUNK + 1e-9
        assert last - first <= lengths.most
        inside = slice(int(np.ceil(first / CHUNK - 1e-6)), int(last / CHUNK + 1e-6))
        spoken += int(speech[inside].sum())
        for edge in (first, last):  # within a chunk, or between two, of which one is silent
            around = speech[int(edge / CHUNK - 1e-6) : int(np.ceil(edge / CHUNK + 1e-6))]
            assert edge in (0.0, len(speech) * CHUNK) or not around.all() or len(around) == 0
        before = last
    lost = sum(len(found) for found in cuts.left_out.values())
    if not lost:
        assert spoken == int(speech.sum())


def test_real_voices_are_cut_between_their_sentences():
    """Sentences of the demo corpus with pauses between them: 40 seconds, noise everywhere."""
    random = np.random.default_rng(0)
    parts, pauses, at = [], [], 0.0
    for path in sorted(DEMO.iterdir())[:16]:
        audio, rate, _ = decode(path)
        pause = float(random.uniform(0.5, 0.9))
        pauses.append((at + len(audio) / rate - 0.1, at + len(audio) / rate + pause + 0.1))
        parts += [audio, np.zeros(int(pause * rate), np.float32)]
        at += len(audio) / rate + int(pause * rate) / rate
    recording = np.concatenate(parts)
    recording += 1e-4 * random.normal(size=len(recording)).astype(np.float32)
    cuts = cut(recording, rate, make_vad())
    assert cuts.left_out == {}
    assert len(cuts.pieces) >= 4
    assert all(2 <= last - first <= 12 for first, last in cuts.pieces)
    for (_, last), (first, _) in zip(cuts.pieces, cuts.pieces[1:]):
        assert any(low <= last <= first <= high for low, high in pauses), (last, first)
    assert sum(last - first for first, last in cuts.pieces) > 0.75 * at
