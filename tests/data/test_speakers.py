"""Who speaks: names, numbers, mixtures; the nearest name where there is none."""

from __future__ import annotations

import pytest

from vits_jax.data.speakers import mixture, speaker_id
from vits_jax.errors import UserError

NAMES = {"anna": 0, "bob": 1, "3": 2, "a=1,b=2": 3}


def test_a_name_is_not_taken_for_a_number() -> None:
    assert [speaker_id(name, NAMES, 4) for name in (None, "bob", "1", "3", 3)] == [0, 1, 1, 2, 3]
    assert speaker_id("3", {}, 4) == 3


def test_a_map_with_numbers_that_cannot_be() -> None:
    with pytest.raises(UserError, match="speaker id 1: expected one from 0 to 0"):
        speaker_id("bob", NAMES, 1)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("anna", {0: 1}),
        ("3", {2: 1}),
        ("a=1,b=2", {3: 1}),  # a name, as a whole
        ("anna=0.7,bob=0.3", {0: 0.7, 1: 0.3}),
        (" anna = 7 , bob = 3 ", {0: 0.7, 1: 0.3}),
        ("anna=1,1=1,3=2", {0: 0.25, 1: 0.25, 2: 0.5}),
        ("bob=1e308,anna=1e308", {1: 0.5, 0: 0.5}),
        ("bob=5", {1: 1}),
    ],
)
def test_shares(text: str, shares: dict[int, float]) -> None:
    assert mixture(text, NAMES, 4) == pytest.approx(shares, rel=1e-12)
    assert list(mixture(text, NAMES, 4)) == list(shares)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ana", "no speaker 'ana' in this voice: did you mean 'anna'?"),
        ("zoe", "no speaker 'zoe' in this voice: it has anna, bob, 3, a=1,b=2"),
        ("", "no speaker '' in this voice: it has anna"),
        ("4", "speaker id 4: expected one from 0 to 3"),
        ("-1", "no speaker '-1' in this voice"),
        ("anna=0.5,bop=0.5", "no speaker 'bop' in this voice: did you mean 'bob'?"),
        ("anna=0.5,bob", "'bob': expected NAME=PART with a part above 0"),
        ("anna=0.5,", "'': expected NAME=PART"),
        ("=1", "'=1': expected NAME=PART"),
        ("anna=0,bob=1", "'anna=0': expected NAME=PART"),
        ("anna=1.5,bob=-0.5", "'bob=-0.5': expected NAME=PART"),
        ("anna=nan", "'anna=nan': expected NAME=PART"),
        ("anna=inf", "'anna=inf': expected NAME=PART"),
        ("anna=half", "'anna=half': expected NAME=PART"),
        ("anna=1,0=1", "'0=1': speaker 0 is named already"),
    ],
)
def test_what_is_none(text: str, expected: str) -> None:
    with pytest.raises(UserError) as refused:
        mixture(text, NAMES, 4)
    assert expected in str(refused.value)
