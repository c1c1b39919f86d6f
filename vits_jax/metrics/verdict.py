"""How a run goes, in a word, its reason in numbers, and what to do: after each validation.

All of it follows from what the run told so far (``metrics.jsonl``), so it can be judged again.
What counts as broken, and from when on, was found on runs made to fail (docs/verdict.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[int, float]]
"""Steps and values, ascending."""
History = Mapping[str, Points]
"""What a run told, by name; what is not there was not told."""


class Verdict(NamedTuple):
    """What is said of a run."""

    kind: str  # early, improving, plateau, overfitting or broken
    reason: str  # in numbers
    advice: str  # what to do; empty: go on
    since: int = 0  # step

    @property
    def colour(self) -> str:
        """For a page."""
        return _COLOURS[self.kind]

    def __str__(self) -> str:
        """One line."""
        return f"{self.kind}: {self.reason}" + (f"; {self.advice}" if self.advice else "")


_COLOURS = {
    "early": "grey",
    "improving": "green",
    "plateau": "yellow",
    "overfitting": "orange",
    "broken": "red",
}


_SIGMAS = 2.6
"""Half of an interval, in standard deviations: 99 %, as three losses are looked at each time."""


@dataclass(frozen=True)
class Rules:
    """From when on something counts."""

    learned: int = 200
    """Steps after which a run speaks at all: before, silence and odd lengths are no faults."""
    hears: float = 2.0
    """Steps times learning rate after which texts must matter: 2,000 at 1e-3, 10,000 at 2e-4."""
    validations: int = 4
    """So many before anything is said of a trend."""
    patience: int = 10
    """So many before a run is given up: the first few go up and down."""
    skipped: float = 0.5
    """Share of the updates since the last validation."""
    quieter: float = 25.0
    """Decibels below the recordings."""
    clipped: float = 0.01
    """Share of the samples."""
    shorter: float = 0.4
    """Times the recordings' length: less is too short ..."""
    longer: float = 2.5
    """... and more too long."""
    won: float = 0.1
    """Share of what discriminators lose that tell nothing apart."""
    diverged: float = 1.5
    """Times the best mel loss."""
    kl: float = 20.0
    """Nats: a model that learns has a few."""
    unheard: float = 0.03
    """Share of KL that other texts cost at least: ten times this once texts are learned."""
    alike: float = 1.5
    """Times what halves of one speaker's recordings are apart: two speakers' are more."""
    apart: float = 0.2
    """Share of what two speakers' recordings are apart."""
    gain: float = 0.005
    """Share of a loss: what one doubling of the steps gains at least, or it is a plateau."""
    overfits: float = 0.05
    """Share of a loss that it is above its lowest."""


def judge(history: History, discriminators: int, rules: Rules = Rules()) -> Verdict:
    """A verdict on a run, as of its last validation.

    Args:
        history: its numbers, by their names in ``metrics.jsonl``.
        discriminators: whose losses are added up.
    """
    for found in _faults(history, discriminators, rules):
        return found
    mel = _points(history, "validation/mel")
    if len(mel) < rules.validations:
        return Verdict("early", f"{len(mel)} validations so far", "")
    # Held-out KL may rise while the decoder learns, as the posterior tells it more: what counts
    # first is whether speech becomes more like the recordings.
    better, flat = _improving(history, rules)
    if better is None and len(mel) < rules.patience:
        return Verdict("early", f"nothing gained yet, after {len(mel)} validations", "")
    return better or _overfitting(history, rules) or _plateau(history, flat)


# What is broken


def _faults(history: History, discriminators: int, rules: Rules) -> Iterator[Verdict]:
    step = max((points[-1][0] for points in history.values() if points), default=0)
    found = (
        _not_finite(history, rules, step),
        _diverged(history, rules, step),
        _won(history, discriminators, rules, step),
        _unlike(history, rules, step),
        _unheard(history, rules, step),
    )
    yield from (verdict for verdict in found if verdict is not None)


def _not_finite(history: History, rules: Rules, step: int) -> Verdict | None:
    skipped = _since_validation(history, "train/skipped")
    updates = _since_validation(history, "train/updates")
    if skipped and sum(skipped) >= rules.skipped * max(1.0, sum(updates)):
        return Verdict(
            "broken",
            f"{sum(skipped):.0f} of {sum(updates):.0f} updates skipped: losses or gradients that "
            "are not finite",
            "begin again from an earlier checkpoint with a lower --learning-rate, or look at the "
            "utterances that the run names",
            step,
        )
    return None


def _diverged(history: History, rules: Rules, step: int) -> Verdict | None:
    kl = _last(history, "validation/kl")
    if kl is not None and kl > rules.kl and step >= rules.learned:
        return Verdict(
            "broken",
            f"the KL divergence is {kl:.0f}, of a model that learns it is a few: it diverged",
            "begin again with a lower --learning-rate",
            step,
        )
    mel = _points(history, "validation/mel")
    if len(mel) < 2:
        return None
    best_step, best = min(mel[:-1], key=lambda point: point[1])
    last = mel[-1][1]
    if last > rules.diverged * best and last - best > _SIGMAS * noise(mel[:-1]):
        return Verdict(
            "broken",
            f"the mel loss is {last:.3f}, after {best:.3f} at step {best_step}: it diverged",
            f"begin again from step {best_step} or before, with a lower --learning-rate",
            step,
        )
    return None


def _won(history: History, count: int, rules: Rules, step: int) -> Verdict | None:
    lost, fooled = (_mean(_since_validation(history, f"train/{n}")) for n in ("disc", "gen"))
    if lost is None or fooled is None or step < rules.learned:
        return None
    # Least squares (Mao et al. 2017): who cannot tell loses 0.5 each, who can nothing; the
    # generator loses 0.25 each, and 1 where each is told at once.
    if lost < rules.won * 0.5 * count and fooled > (1 - rules.won) * count:
        return Verdict(
            "broken",
            f"the discriminators have won: they lose {lost:.2f} of {0.5 * count:.1f}, the "
            f"generator {fooled:.2f} of {count}",
            "begin again with a lower --learning-rate-d, or from a checkpoint before",
            step,
        )
    return None


def _unlike(history: History, rules: Rules, step: int) -> Verdict | None:
    """Speech that is none: the spoken examples beside their recordings."""
    if step < rules.learned:
        return None
    names = ("level", "recorded_level", "clipping", "recorded_clipping", "length")
    found = {name: _last(history, f"examples/{name}") for name in names}
    level, recorded, clipping, clipped, length = found.values()
    if recorded is not None and recorded < _SILENT:
        return Verdict(
            "broken",
            f"the recordings are silent: {recorded:.0f} dB",
            "look at the corpus: vits-jax check",
            step,
        )
    if level is not None and recorded is not None and level < recorded - rules.quieter:
        return Verdict(
            "broken",
            f"it is silent: {level:.0f} dB, the recordings have {recorded:.0f} dB",
            "look at the corpus (vits-jax check: silent clips), then begin again with a lower "
            "--learning-rate",
            step,
        )
    if clipping is not None and clipping > rules.clipped + (clipped or 0):
        return Verdict(
            "broken",
            f"{100 * clipping:.1f} % of the samples are clipped, of the recordings' "
            f"{100 * (clipped or 0):.1f} %",
            "begin again from an earlier checkpoint with a lower --learning-rate",
            step,
        )
    if length is not None and not rules.shorter <= length <= rules.longer:
        return Verdict(
            "broken",
            f"durations collapsed: the examples are {length:.2f} times as long as the recordings",
            "look at whether texts and recordings belong together (vits-jax check)",
            step,
        )
    return None


_SILENT = -60.0  # decibels


def _unheard(history: History, rules: Rules, step: int) -> Verdict | None:
    """Speakers or texts that tell nothing."""
    if step < rules.learned:
        return None
    names = ("apart", "recorded_apart", "recorded_alike")
    apart, recorded, alike = (_last(history, f"examples/{name}") for name in names)
    advice = "the speakers may be mislabelled, or are one: listen to them"
    if recorded is not None and alike is not None and recorded < rules.alike * alike:
        reason = (
            f"all speakers are alike: the recordings of two are {recorded:.2f} nepers apart, "
            f"halves of one's {alike:.2f}"
        )
        return Verdict("broken", reason, advice, step)
    if apart is not None and recorded is not None and apart < rules.apart * recorded:
        reason = (
            f"all speakers are alike: two are {apart:.2f} nepers apart, their recordings "
            f"{recorded:.2f}"
        )
        return Verdict("broken", reason, advice, step)
    points = _points(history, "validation/of_texts")
    costs = [value for _, value in points[-rules.validations :]]
    rate = _last(history, "train/learning_rate") or 0.0
    if len(costs) < rules.validations or step * rate < rules.hears:
        return None
    cost = float(np.mean(costs))
    if cost + 2 * float(np.std(costs)) / math.sqrt(len(costs)) < rules.unheard:
        return Verdict(
            "broken",
            f"the model hears no texts: others cost {100 * cost:.2f} % more KL",
            "the texts may not be what is said: vits-jax check, and listen",
            step,
        )
    return None


# Where it goes


def _overfitting(history: History, rules: Rules) -> Verdict | None:
    for name in ("mel", "kl"):
        held_out, train = _points(history, f"validation/{name}"), _points(history, f"train/{name}")
        if len(held_out) < rules.validations or len(train) < 2:
            continue
        width = _window(held_out)
        smooth = _smooth(held_out, width)
        best_step, best = min(smooth, key=lambda point: point[1])
        step, now = smooth[-1]
        interval = _SIGMAS * noise(held_out) * math.sqrt(2 / width)
        trained = [
            float(np.mean([v for s, v in train if low < s <= high] or [math.nan]))
            for low, high in ((best_step - (step - best_step), best_step), (best_step, step))
        ]
        margin = max(interval, rules.overfits * abs(best))
        # Apart from training's, too: KL is low before anything is learned, and then rises in both.
        apart = now - trained[1] > margin
        if now - best > margin and apart and trained[1] < trained[0]:
            return Verdict(
                "overfitting",
                f"held-out {name} rose from {best:.3f} to {now:.3f} (± {interval:.3f}) since step "
                f"{best_step}, training's fell to {trained[1]:.3f} from {trained[0]:.3f}",
                f"the checkpoint nearest to step {best_step} may be the best; more recordings "
                "help, more steps do not",
                best_step,
            )
    return None


_Flat = tuple[int, str]
"""A loss that gains nothing: the step of its best, and its numbers."""


def _improving(history: History, rules: Rules) -> tuple[Verdict | None, list[_Flat]]:
    """Whether a doubling of the steps still gains something, and the losses that do not."""
    flat: list[_Flat] = []
    for name in ("mel", "dur"):
        points = _points(history, f"validation/{name}")
        if len(points) < rules.validations:
            continue
        width = _window(points)
        smooth = _smooth(points, width)
        step, now = smooth[-1]
        earlier = [(s, v) for s, v in smooth[:-1] if s <= max(step / 2, smooth[0][0])]
        then_step, then = earlier[-1] if earlier else smooth[0]
        interval = _SIGMAS * noise(points) * math.sqrt(2 / width)
        gain, least = then - now, rules.gain * abs(then)
        if gain > max(interval, least):
            reason = f"held-out {name} {then:.3f} to {now:.3f} (± {interval:.3f}) since step "
            return Verdict("improving", f"{reason}{then_step}", "", step), flat
        best_step, best = min(smooth, key=lambda point: point[1])
        flat.append((best_step, f"{name} {now:.3f}, at best {best:.3f} (± {interval:.3f})"))
    return None, flat


def _plateau(history: History, flat: Sequence[_Flat]) -> Verdict:
    since = max(best_step for best_step, _ in flat)
    left = _left(history)
    return Verdict(
        "plateau",
        f"nothing gained since step {since}: held out, {'; '.join(told for _, told in flat)}"
        + (f"; left to gain: {left}" if left else ""),
        "listen, and stop here (--stop-when plateau), or go on with a lower --learning-rate",
        since,
    )


def _left(history: History) -> str:
    """What metrics that the recordings have too lack of theirs."""
    told = []
    for name, points in sorted(history.items()):
        recorded = _last(history, name.replace("speech/", "recordings/"))
        if name.startswith("speech/") and recorded is not None and points:
            here, there = f"{points[-1][1]:.2f}", f"{recorded:.2f}"
            told += [f"{name.removeprefix('speech/')} {here} of {there}"] if here != there else []
    return ", ".join(told)


# Numbers


def noise(points: Points) -> float:
    """Standard deviation of values about their trend, from second differences, robustly.

    Zero for fewer than four.
    """
    values = np.array([value for _, value in points[-20:]])
    if len(values) < 4:
        return 0.0
    bends = np.diff(values, 2)
    return float(1.4826 * np.median(np.abs(bends - np.median(bends))) / math.sqrt(6))


def _window(points: Points) -> int:
    return max(2, min(10, len(points) // 5))


def _smooth(points: Points, width: int) -> list[tuple[int, float]]:
    values = [value for _, value in points]
    return [
        (points[i][0], float(np.mean(values[i + 1 - width : i + 1])))
        for i in range(width - 1, len(points))
    ]


def _points(history: History, name: str) -> Points:
    return history.get(name, ())


def _last(history: History, name: str) -> float | None:
    points = _points(history, name)
    return points[-1][1] if points else None


def _since_validation(history: History, name: str) -> list[float]:
    """Values since the validation before the last one."""
    steps = [step for step, _ in _points(history, "validation/mel")]
    since = steps[-2] if len(steps) > 1 else -1
    return [value for step, value in _points(history, name) if step > since]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
