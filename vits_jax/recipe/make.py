"""The story: step by step to a voice, from where an earlier start stopped."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace

from vits_jax import files
from vits_jax.checkpoints import store
from vits_jax.data.storage.lock import alone
from vits_jax.errors import UserError
from vits_jax.recipe.page import NAME as PAGE
from vits_jax.recipe.page import lacking, write_page
from vits_jax.recipe.record import Done, Record, digest, read_record, stamp
from vits_jax.recipe.running import Commands, shown
from vits_jax.recipe.steps import CHECKED, Recipe, Step, clock, steps_of, verdicts

_LOGGER = logging.getLogger(__name__)


def dry_run(recipe: Recipe) -> list[str]:
    """The commands, none of which is run."""
    steps = [step_of(recipe) for step_of in steps_of(recipe)]
    return [shown(step.words, step.output) for step in steps if step is not None]


def make(recipe: Recipe) -> int:
    """Make the voice; the exit code: that of the step that did not succeed, if one did not.

    Raises:
        UserError: the directory is another voice's, or another start works in it.
    """
    files.check_writable(recipe.out)
    record = read_record(recipe.out, _of(recipe))
    with alone(recipe.out / ".voice.lock", wait=False) as held, Commands().heeding() as commands:
        if not held and (recipe.out / ".voice.lock").exists():
            raise UserError(f"{recipe.out}: another start works in it: wait for it")
        if recipe.base.own_symbols():
            content = json.dumps(dict(recipe.base.symbols), ensure_ascii=False)
            files.write({recipe.phonemes: content.encode()})
        for step_of in steps_of(recipe):
            if commands.asked is not None:  # while nothing ran
                return 128 + commands.asked
            code = _do(step_of, recipe, record, commands)
            _write_page(recipe, record)
            if code:
                return code
            if step_of is CHECKED:
                _say_what_it_says(recipe)
    _LOGGER.info("the voice: %s", recipe.voice)
    _LOGGER.info("all that is to tell of it: %s", recipe.out / PAGE)
    return 0


def _of(recipe: Recipe) -> dict[str, str]:
    base = recipe.base.path
    of = {"FOLDER": str(recipe.folder.absolute()), "--name": recipe.name}
    of |= {"--from": str(base.absolute())}
    # A run goes on training, and is then another beginning; a file is the same or is not.
    return of | ({"--from of SHA-256": digest([base])} if base.is_file() else {})


def _do(
    step_of: Callable[[Recipe], Step | None], recipe: Recipe, record: Record, commands: Commands
) -> int:
    """One step, unless it is done; its exit code."""
    step = step_of(recipe)
    if step is None:
        return 0
    command, reads = shown(step.words, step.output), digest(step.reads) + stamp(step.theirs)
    before = record.steps.get(step.name, Done())
    same = before.code == 0 and (before.command, before.reads) == (command, reads)
    if same and before.makes and before.makes == digest(step.makes):
        _LOGGER.info("%s: done before", step.name)
        return 0
    words = _words_now(step, recipe, before)
    code, seconds = 0, 0.0
    if words is None:
        _LOGGER.info("%s: done before", step.name)
    else:
        code, seconds = _run(
            step, words, Done(command, reads, "", before.seconds), record, commands
        )
    # What it makes is known now: of a run, the steps that are kept.
    made = None if code else step_of(recipe)
    makes = "" if made is None else digest(made.makes)
    record.steps[step.name] = Done(command, reads, makes, before.seconds + seconds, code)
    record.write()
    if code == 0 and commands.asked is not None:
        code = 128 + commands.asked
    if code not in (0, 129, 130, 143):
        _LOGGER.error("failed: %s ended with exit code %d: %s", step.name, code, command)
    elif code:
        _LOGGER.info("stopped at %s: the same command goes on from there", step.name)
    return code


def _run(
    step: Step, words: tuple[str, ...], so_far: Done, record: Record, commands: Commands
) -> tuple[int, float]:
    """Run its command; exit code, and the seconds it took."""
    for setting in step.why:
        _LOGGER.info("--%s %s: %s", setting.flag.replace("_", "-"), setting.value, setting.why)
    _LOGGER.info("$ %s", shown(words, step.output))
    if step.name == "import" and step.name in record.steps:
        # Begun here before: the import overwrites nothing.
        shutil.rmtree(step.makes[0], ignore_errors=True)

    def note(seconds: float) -> None:
        record.steps[step.name] = replace(so_far, seconds=so_far.seconds + seconds, code=None)
        record.write()

    note(0.0)
    return commands.run(words, step.output, note)


def _say_what_it_says(recipe: Recipe) -> None:
    """Of ``check``, whose own words went into a file."""
    report = json.loads(recipe.report.read_text(encoding="utf-8"))
    speakers = max(1, len(report["speakers"]))
    _LOGGER.info(
        "%d of %d rows can be used: %.1f minutes, %d speaker%s; %d rows to look at: %s",
        *(report["used"], report["rows"], report["seconds"] / 60, speakers),
        *("s" if speakers > 1 else "", len(report["warned"]), recipe.report_page),
    )
    if lost := lacking(recipe):
        shown = ", ".join(f"{symbol!r} x {count}" for symbol, count in lost.items())
        _LOGGER.warning(
            "warning: %s knows nothing of these symbols of the texts, which are learned from the "
            "recordings alone: %s",
            *(recipe.base.path, shown),
        )


def _words_now(step: Step, recipe: Recipe, before: Done) -> tuple[str, ...] | None:
    """With the time that training has left; None where it needs no more."""
    if step.name != "train":
        return step.words
    has_steps = bool(store.step_directories(recipe.run / store.DIRECTORY))
    words, flag = list(step.words), "--max-time"
    last = list(verdicts(recipe))[-1:]
    stops = "stop_when" not in recipe.given or recipe.given["stop_when"] == "plateau"
    if has_steps and stops and last and last[0][1] == "plateau":
        return None
    if recipe.max_seconds is None:
        return step.words
    left = recipe.max_seconds - before.seconds
    if left < 1 and has_steps:
        return None
    words[words.index(flag) + 1] = clock(left)
    return tuple(words)


def _write_page(recipe: Recipe, record: Record) -> None:
    try:
        write_page(recipe, record)
    except OSError as error:  # a page must not end it
        _LOGGER.warning("%s: %s", recipe.out / PAGE, error)
