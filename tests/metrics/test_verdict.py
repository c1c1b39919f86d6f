"""A verdict from numbers: each kind, from histories that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from vits_jax.metrics.verdict import Verdict, judge, noise

History = dict[str, list[tuple[int, float]]]
EVERY = 100  # steps between two validations


def history(
    mel: np.ndarray,
    *,
    kl: np.ndarray | None = None,
    train: np.ndarray | None = None,
    **last: float,
) -> History:
    """Validations of those mel losses; training's follow them."""
    steps = [EVERY * (i + 1) for i in range(len(mel))]

    def points(values: np.ndarray) -> list[tuple[int, float]]:
        return [(step, float(value)) for step, value in zip(steps, values)]

    kl = np.full(len(mel), 1.5) if kl is None else kl
    found = {
        "validation/mel": points(mel),
        "validation/kl": points(kl),
        "validation/dur": points(np.full(len(mel), 2.0)),
        "train/mel": points(mel if train is None else train),
        "train/kl": points(kl if train is None else train),
        "train/updates": points(np.full(len(mel), EVERY)),
        "train/skipped": points(np.zeros(len(mel))),
        "train/learning_rate": points(np.full(len(mel), 1e-3)),
        "train/disc": points(np.full(len(mel), 2.4)),
        "train/gen": points(np.full(len(mel), 2.5)),
        "validation/of_texts": points(np.full(len(mel), 0.1)),
        "examples/apart": points(np.full(len(mel), 0.5)),
        "examples/recorded_apart": points(np.full(len(mel), 0.6)),
        "examples/recorded_alike": points(np.full(len(mel), 0.1)),
        "examples/level": points(np.full(len(mel), -20.0)),
        "examples/recorded_level": points(np.full(len(mel), -19.0)),
        "examples/clipping": points(np.zeros(len(mel))),
        "examples/recorded_clipping": points(np.zeros(len(mel))),
        "examples/length": points(np.ones(len(mel))),
    }
    return found | {name.replace("__", "/"): [(steps[-1], v)] for name, v in last.items()}


def falling(count: int, seed: int = 0, spread: float = 0.01) -> np.ndarray:
    """As the losses of a run that goes well: by a power of the steps."""
    steps = EVERY * np.arange(1, count + 1)
    return 2 * (steps / EVERY) ** -0.2 + spread * np.random.default_rng(seed).normal(size=count)


def said(of: History) -> Verdict:
    return judge(of, discriminators=6)


@pytest.mark.parametrize("count", [4, 6, 10, 20, 40])
@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_goes_well_improves(count: int, seed: int):
    found = said(history(falling(count, seed)))
    assert (found.kind, found.advice) == ("improving", "")
    assert f"to {np.mean(falling(count, seed)[-max(2, min(10, count // 5)) :]):.3f}" in found.reason


def test_the_first_validations_say_nothing():
    assert said(history(falling(3))).kind == "early"
    assert said({}).kind == "early"
    assert said(history(np.full(9, 1.0))).kind == "early"
    assert said(history(np.full(10, 1.0))).kind == "plateau"


@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_gains_nothing_more_is_a_plateau(seed: int):
    rising = falling(40, seed)
    rising[12:] = rising[11] + 0.01 * np.random.default_rng(seed).normal(size=28)
    found = said(history(rising, train=falling(40)))
    assert found.kind == "plateau"
    assert "nothing gained since step" in found.reason
    assert "--stop-when plateau" in found.advice


def test_a_plateau_says_what_recordings_get():
    flat = np.full(40, 0.8) + 0.01 * np.random.default_rng(0).normal(size=40)
    found = said(history(flat, speech__dnsmos=2.5, recordings__dnsmos=3.25))
    assert found.kind == "plateau"
    assert "left to gain: dnsmos 2.50 of 3.25" in found.reason


@pytest.mark.parametrize("of", ["mel", "kl"])
def test_held_out_rising_while_training_falls_is_overfitting(of: str):
    count = 40
    up = np.concatenate([falling(15), falling(15)[-1] + 0.02 * np.arange(25)])
    rest = {"kl": up} if of == "kl" else {}
    flat = np.concatenate([falling(10), np.full(30, falling(10)[-1])])
    mel = flat if of == "kl" else up
    found = said(history(mel, train=falling(count), **rest))
    assert found.kind == "overfitting"
    assert f"held-out {of} rose from" in found.reason
    assert abs(found.since - 1500) <= 400
    # KL rises in good runs too, as the posterior tells the decoder more.
    assert said(history(falling(count), train=falling(count), kl=up)).kind == "improving"
    # Where training's rises too, it is something else.
    assert said(history(mel, train=up, **rest)).kind != "overfitting"


def test_held_out_that_rises_to_training_is_not_overfitting():
    """KL is low before a posterior says anything: the first ten clips of a real run did so."""
    spread = 0.01 * (-1.0) ** np.arange(14)
    held_out = np.concatenate([[1.1, 1.1, 1.3], np.full(11, 1.45)]) + spread
    train = np.concatenate([[4.0, 2.6, 1.6], np.full(11, 1.42)]) + spread
    of = history(np.full(14, 0.83) + spread, kl=held_out)
    of["train/kl"] = [(step, value) for (step, _), value in zip(of["train/kl"], train)]
    assert said(of).kind == "plateau"
    apart = of | {"train/kl": [(step, v - 0.5) for step, v in of["train/kl"]]}
    assert said(apart).kind == "overfitting"


def test_noise_is_found_beside_a_trend():
    values = falling(40, spread=0.0) + 0.02 * np.random.default_rng(1).normal(size=40)
    points = [(i, float(value)) for i, value in enumerate(values)]
    assert 0.01 < noise(points) < 0.03
    assert noise(points[:3]) == 0


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"train__skipped": 60.0, "train__updates": 100.0}, "60 of 100 updates skipped"),
        ({"validation__mel": 9.0}, "the mel loss is 9.000, after"),
        ({"train__disc": 0.1, "train__gen": 5.9}, "the discriminators have won"),
        ({"examples__level": -60.0}, "it is silent: -60 dB, the recordings have -19 dB"),
        ({"examples__recorded_level": -75.0}, "the recordings are silent"),
        ({"examples__clipping": 0.03}, "3.0 % of the samples are clipped"),
        ({"examples__length": 0.2}, "durations collapsed: the examples are 0.20 times"),
        ({"examples__length": 4.0}, "durations collapsed"),
        ({"validation__kl": 1500.0}, "the KL divergence is 1500"),
        ({"examples__apart": 0.1}, "all speakers are alike: two are 0.10 nepers apart"),
        ({"examples__recorded_apart": 0.14}, "alike: the recordings of two are 0.14 nepers"),
    ],
)
def test_what_is_broken_is_named_with_its_numbers_and_what_to_do(broken, reason: str):
    healthy = history(falling(10))
    of = dict(healthy)
    for key, number in broken.items():
        key = key.replace("__", "/")
        of[key] = [*healthy[key][:-1], (healthy[key][-1][0], number)]
    if "train__disc" in broken:
        for key in ("train/disc", "train/gen"):
            of[key] = [(step, broken[key.replace("/", "__")]) for step, _ in healthy[key]]
    found = said(of)
    assert found.kind == "broken"
    assert reason in found.reason
    assert found.advice
    assert found.colour == "red"


def test_a_model_that_hears_no_texts_is_broken_once_it_should():
    of = history(falling(30))
    name = "validation/of_texts"
    of[name] = [(step, 0.0005 * (-1) ** i) for i, (step, _) in enumerate(of[name])]
    assert said(of).kind == "broken"
    assert "hears no texts" in said(of).reason
    early = {key: points[:15] for key, points in of.items()}
    assert said(early).kind == "improving"
