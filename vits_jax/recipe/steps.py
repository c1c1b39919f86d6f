"""The steps from recordings to a voice: each a command, what it reads, what it makes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vits_jax.checkpoints import store
from vits_jax.checkpoints.saving import Keep
from vits_jax.data.corpora.corpus import MYCROFT
from vits_jax.data.gathering.gather import LONGEST as USUAL_LONGEST
from vits_jax.data.gathering.gather import recordings
from vits_jax.recipe.base import CKPT, ONNX, Base
from vits_jax.recipe.settings import Setting, settings
from vits_jax.training import journal

RECORDINGS = "recordings"
"""A folder that is no corpus yet."""
_GUESSED = 7.0  # seconds of a row, before anything is cut: LJ Speech has 6.6

OWN_FLAGS = (
    *("dataset_dir", "run_dir", "default_root_dir", "max_time", "max_epochs", "warmstart_ckpt"),
    *("voice_config", "resume_from_checkpoint", "resume_from_single_speaker_checkpoint"),
    *("vocoder_warmstart_ckpt", "fast_dev_run"),
)
"""Of `train`, which are not for the user to give: the recipe's own, or another beginning."""


@dataclass(frozen=True)
class Step:
    """A command of a recipe.

    Attributes:
        name: of the step.
        words: the command and its arguments.
        reads: what it is made from; `theirs` are the user's own files.
        makes: what is there when it is done.
        output: file that its standard output goes to.
        why: flags that were chosen, for people.
    """

    name: str
    words: tuple[str, ...]
    reads: tuple[Path, ...]
    makes: tuple[Path, ...]
    theirs: tuple[Path, ...] = ()
    output: Path | None = None
    why: tuple[Setting, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What a voice is made of, and where.

    Attributes:
        folder: recordings, or a corpus.
        kind: `RECORDINGS`, or the corpus's format.
        base: what it begins with.
        name: of the voice's files, without ending.
        language: espeak-ng's voice.
        out: directory of all that is made.
        max_seconds: of training; None: until nothing is gained.
        recogniser, longest: as of ``gather``.
        corpus_flags: of ``check`` and ``preprocess``.
        train_flags: of ``train``, as they were given.
        given: of those the names, without the dashes in front, with ``_``.
    """

    folder: Path
    kind: str
    base: Base
    name: str
    language: str
    out: Path
    max_seconds: int | None = None
    recogniser: str | None = None
    longest: float = USUAL_LONGEST
    corpus_flags: tuple[str, ...] = ()
    train_flags: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def corpus(self) -> Path:
        """What `preprocess` reads."""
        return self.out / "corpus" if self.kind == RECORDINGS else self.folder

    @property
    def report(self) -> Path:
        """What `check` says."""
        return self.out / "check.json"

    @property
    def report_page(self) -> Path:
        """The same to look at."""
        return self.out / "check.html"

    @property
    def data(self) -> Path:
        """The prepared directory."""
        return self.out / "data"

    @property
    def run(self) -> Path:
        """The run's directory."""
        return self.out / "run"

    @property
    def voice(self) -> Path:
        """The exported voice."""
        return self.out / "voice" / f"{self.name}.onnx"

    @property
    def phonemes(self) -> Path:
        """The base's symbols, where they are its own."""
        return self.out / "phonemes.json"

    @property
    def begins_with(self) -> Path:
        """The checkpoint that training begins with."""
        return self.out / "base" if self.base.kind == ONNX else self.base.path


def steps_of(recipe: Recipe) -> list[Callable[[Recipe], Step | None]]:
    """In their order; each is asked once those before it are done."""
    return [_gather, _check, _preprocess, _import, _train, _export]


def _gather(recipe: Recipe) -> Step | None:
    if recipe.kind != RECORDINGS:
        return None
    words = ["gather", str(recipe.folder), str(recipe.corpus)]
    if recipe.recogniser is not None:
        words += ["--recogniser", recipe.recogniser]
    if recipe.longest != USUAL_LONGEST:
        words += ["--longest", f"{recipe.longest:g}"]
    return Step("gather", tuple(words), (), (recipe.corpus,), theirs=(recipe.folder,))


def _corpus_words(recipe: Recipe) -> list[str]:
    kind = MYCROFT if recipe.kind == MYCROFT else "ljspeech"
    words = ["--language", recipe.language, "--sample-rate", str(recipe.base.sample_rate)]
    words += ["--dataset-format", kind]
    if recipe.base.phoneme_type != "espeak":
        words += ["--phoneme-type", recipe.base.phoneme_type]
    if recipe.base.own_symbols():
        words += ["--phonemes-path", str(recipe.phonemes)]
    return [*words, *recipe.corpus_flags]


def _of_corpus(recipe: Recipe, step: Step) -> Step:
    """A step that reads the corpus: ours, or the user's."""
    if recipe.kind == RECORDINGS:
        return replace(step, reads=(recipe.corpus,))
    return replace(step, theirs=(recipe.corpus,))


def _check(recipe: Recipe) -> Step:
    words = ["check", str(recipe.corpus), *_corpus_words(recipe)]
    if "config" not in recipe.given:
        quality = recipe.given.get("quality", recipe.base.model_flags()["quality"])
        words += ["--quality", str(quality)]
    words += ["--html", str(recipe.report_page), "--json"]
    makes = (recipe.report, recipe.report_page)
    return _of_corpus(recipe, Step("check", tuple(words), (), makes, output=recipe.report))


def _preprocess(recipe: Recipe) -> Step:
    words = ["preprocess", "--input-dir", str(recipe.corpus), "--output-dir", str(recipe.data)]
    words += [*_corpus_words(recipe), "--dataset-name", recipe.name]
    return _of_corpus(recipe, Step("preprocess", tuple(words), (), (recipe.data,)))


def _import(recipe: Recipe) -> Step | None:
    if recipe.base.kind != ONNX:
        return None
    words = ["import-onnx", str(recipe.base.path), str(recipe.begins_with)]
    theirs = [recipe.base.path]
    if recipe.base.voice_config is not None:
        words += ["--voice-config", str(recipe.base.voice_config)]
        theirs.append(recipe.base.voice_config)
    else:
        theirs.append(recipe.base.path.with_name(recipe.base.path.name + ".json"))
    return Step("import", tuple(words), (), (recipe.begins_with,), theirs=tuple(theirs))


def _train(recipe: Recipe) -> Step:
    chosen = settings(utterances(recipe))
    ours = {"dataset_dir": str(recipe.data), "run_dir": str(recipe.run)}
    ours |= {} if "config" in recipe.given else recipe.base.model_flags()
    if "quality" in recipe.given:
        ours = {name: ours[name] for name in ("dataset_dir", "run_dir")}
    ours |= {setting.flag: setting.value for setting in chosen}
    if "batch_frames" in recipe.given:
        del ours["batch_size"]
    ours["warmstart_ckpt"] = str(recipe.begins_with)
    if recipe.base.kind == CKPT and recipe.base.voice_config is not None:
        ours["voice_config"] = str(recipe.base.voice_config)
    ours["stop_when"] = "plateau"
    if recipe.max_seconds is not None:
        # Time ends it: a thousand epochs of a small corpus are over sooner.
        ours |= {"max_epochs": "-1", "max_time": clock(recipe.max_seconds)}
    words = ["train"]
    for name, value in ours.items():
        if name not in recipe.given:
            words += [f"--{name.replace('_', '-')}", value]
    why = tuple(setting for setting in chosen if setting.flag in ours.keys() - recipe.given.keys())
    reads = (recipe.data, recipe.out / "base") if recipe.base.kind == ONNX else (recipe.data,)
    makes = tuple(
        step / name
        for step in store.step_directories(recipe.run / store.DIRECTORY)
        for name in ("digests.json", store.METRICS)
        if (step / name).is_file()
    ) or (recipe.run / store.DIRECTORY,)
    return Step("train", (*words, *recipe.train_flags), reads, makes, why=why)


def _export(recipe: Recipe) -> Step:
    words = ["export-onnx", str(recipe.run), str(recipe.voice)]
    if not store.step_directories(recipe.run / store.DIRECTORY) or best_step(recipe) is not None:
        words.append("--best")
    voice = recipe.voice
    makes = (voice, voice.with_name(f"{voice.name}.json"), voice.with_name("tokens.txt"))
    reads = _train(recipe).makes
    return Step("export", tuple(words), reads, makes)


CHECKED = _check
"""The step that says what recordings there are."""


# What is known on the way


def utterances(recipe: Recipe) -> int:
    """That are used, as ``check`` says; a guess where it did not run yet."""
    try:
        used = json.loads(recipe.report.read_text(encoding="utf-8"))["used"]
        return max(1, int(used))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if recipe.kind != RECORDINGS:
        names = recipe.folder.rglob("*metadata*")
        return max(1, sum(len(name.read_bytes().splitlines()) for name in names if name.is_file()))
    found = recordings(recipe.folder, recipe.out)
    whole = sum(1 for each in found if not each.seconds > recipe.longest)
    cut = sum(each.seconds for each in found if each.seconds > recipe.longest)
    return max(1, whole + math.ceil(cut / _GUESSED))


def best_step(recipe: Recipe) -> int | None:
    """Of the run, by what it keeps the best by; None where no step was validated."""
    steps = store.step_directories(recipe.run / store.DIRECTORY)
    if not steps:
        return None
    keep = Keep.of(store.written_metadata(steps[-1]).config.run)
    ranked = keep.ranked({int(step.name): store.metrics_of(step) for step in steps})
    return ranked[0] if ranked else None


def verdicts(recipe: Recipe) -> Iterator[tuple[int, str, str]]:
    """Step, kind and reason of each verdict on the run."""
    for line in journal.read(recipe.run):
        if isinstance(line.get("verdict"), str):
            yield line["step"], line["verdict"], str(line.get("reason", ""))


def clock(seconds: float) -> str:
    """``DD:HH:MM:SS``, as `train` has it."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days:02d}:{hours:02d}:{minutes:02d}:{rest:02d}"
