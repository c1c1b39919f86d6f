"""``voice.html``: all that is to be told of a voice that was made, and of its making."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vits_jax.checkpoints import store
from vits_jax.data.corpora.audio_files import AudioFault
from vits_jax.data.gathering.gather import GATHERED
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.data.split import split
from vits_jax.errors import UserError
from vits_jax.metrics import METRICS
from vits_jax.metrics.verdict import Verdict
from vits_jax.pages.curves import curve
from vits_jax.pages.page import plot, render, sound, write
from vits_jax.recipe.record import Done, Record
from vits_jax.recipe.steps import Recipe, best_step, steps_of, verdicts
from vits_jax.training import journal, samples
from vits_jax.training.run_page import NAME as RUN_PAGE

NAME = "voice.html"
_SENTENCES = 3  # that are heard; the run's page has all
_SECONDS = 15.0  # of a player
_CURVES = {
    "mel loss": ("train/mel", "validation/mel"),
    "duration loss": ("train/dur", "validation/dur"),
}


def write_page(recipe: Recipe, record: Record) -> None:
    """Write it anew, with what is there so far.

    Raises:
        OSError: it cannot be written.
    """
    lines = journal.read(recipe.run)
    said = list(verdicts(recipe))[-1:]
    best = best_step(recipe)
    steps = [_step(step_of.__name__.strip("_"), record) for step_of in steps_of(recipe)]
    there = recipe.voice.is_file()
    checked, gathered = _json(recipe.report), _json(recipe.corpus / GATHERED)
    page = render(
        Path(__file__).with_name("page.html"),
        recipe=recipe,
        there=there,
        made=there and all(step["how"] == "done" for step in steps if step is not None),
        size=recipe.voice.stat().st_size / 1e6 if there else 0.0,
        steps=steps,
        verdict=Verdict(said[0][1], said[0][2], "") if said else None,
        verdict_step=said[0][0] if said else 0,
        best=best,
        trained=max((line["step"] for line in lines), default=0),
        hours=record.steps.get("train", Done()).seconds / 3600,
        checked=checked,
        gathered=gathered,
        lengths=_lengths(checked),
        reasons=_reasons(checked),
        lacking=lacking(recipe),
        curves=_curves(lines),
        figures=_figures(lines),
        sentences=_sentences(recipe, best),
        links=[
            (title, path)
            for title, path in (
                ("the run, in all detail", recipe.run / RUN_PAGE),
                ("what check said of the recordings", recipe.report_page),
                ("the voice's card", recipe.voice.with_name("MODEL_CARD.md")),
            )
            if path.is_file()
        ],
        relative=lambda path: path.relative_to(recipe.out).as_posix(),
    )
    write(page, recipe.out / NAME)


def lacking(recipe: Recipe) -> dict[str, int]:
    """Symbols of the texts that the base lacks, and how often they are there.

    What it knows nothing of is learned from the recordings alone.
    """
    if not recipe.base.symbols:
        return {}
    used = (_json(recipe.report) or {}).get("symbols", {}).get("used", {})
    return {symbol: n for symbol, n in used.items() if symbol not in recipe.base.symbols}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _step(name: str, record: Record) -> dict[str, Any] | None:
    done = record.steps.get(name)
    if done is None:
        return None
    ended = {None: "begun", 0: "done", 129: "stopped", 130: "stopped", 143: "stopped"}
    return {
        "name": name,
        "command": done.command,
        "took": _duration(done.seconds),
        "how": ended.get(done.code, f"failed, exit code {done.code}"),
    }


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def _lengths(checked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not checked or not checked["used"]:
        return None
    edges, counts = checked["lengths"]["edges"], checked["lengths"]["counts"]
    return plot(
        [
            (f"{low:g} to {high:g} s: {count}", f"{low:g}", count)
            for low, high, count in zip(edges, edges[1:], counts)
        ]
    )


def _reasons(checked: Mapping[str, Any] | None) -> list[tuple[str, dict[str, int]]]:
    found = []
    for title, key in (("not used", "left_out"), ("used, but look at them", "warned")):
        counts: dict[str, int] = {}
        for row in (checked or {}).get(key, []):
            counts[row["kind"]] = counts.get(row["kind"], 0) + 1
        if counts:
            found.append((title, counts))
    return found


def _curves(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shown = [
        curve(
            title,
            {"training": journal.series(lines, train), "held out": journal.series(lines, held_out)},
        )
        for title, (train, held_out) in _CURVES.items()
    ]
    return [each for each in shown if each is not None]


def _figures(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last of each metric of speech, beside the recordings' own."""
    found = []
    for metric in METRICS:
        own = journal.series(lines, f"speech/{metric.name}")
        theirs = journal.series(lines, f"recordings/{metric.name}")
        if own:
            found.append(
                {
                    "metric": metric,
                    "step": own[-1][0],
                    "voice": f"{own[-1][1]:.3g}",
                    "recordings": f"{theirs[-1][1]:.3g}" if theirs else "–",
                }
            )
    return found


def _sentences(recipe: Recipe, best: int | None) -> list[dict[str, Any]]:
    """What the run said at its best step, or else at its last, beside the recordings."""
    steps = samples.steps(recipe.run)
    if not steps:
        return []
    step = best if best in steps else steps[-1]
    dataset, rows = _held_out(recipe)
    found = []
    for number in range(_SENTENCES):
        path = recipe.run / samples.DIRECTORY / str(step) / f"{number}.flac"
        if not path.is_file():
            break
        audio, rate = soundfile.read(path, dtype="float32")
        players = {f"step {step}": sound(audio, rate, _SECONDS)}
        text = ""
        if dataset is not None and number < len(rows):
            own = dataset.audio(int(rows[number])).astype(np.float32) / 32768
            players["recording"] = sound(own, dataset.config.sample_rate, _SECONDS)
            text = dataset.text(int(rows[number]))
        found.append({"text": text, "players": players})
    return found


def _held_out(recipe: Recipe) -> tuple[Dataset | None, np.ndarray]:
    """The test examples, as the run has them; none where the data cannot be read."""
    nobody = np.zeros(0, np.int64)
    steps = store.step_directories(recipe.run / store.DIRECTORY)
    if not steps:
        return None, nobody
    try:
        config = store.written_metadata(steps[-1]).config
        dataset = load_dataset(
            recipe.data,
            hop_length=config.audio.hop_length,
            min_samples=config.audio.min_samples,
            max_phoneme_ids=config.data.max_phoneme_ids,
            max_frames=config.data.max_frames,
        )
    except (UserError, AudioFault):
        return None, nobody
    of = split(dataset.keys, config.data.validation_split, config.data.num_test_examples)
    return dataset, of.test
