#!/usr/bin/env python3
"""Repeat a training step from the dump of its batch, and find the utterance that breaks it.

python tools/replay.py RUN/dumps/step-N.npz

A run that ends because too many updates in a row were not finite dumps the batch of the
last one beside the state that it had (``vits_jax.training.skipping``). Here the step
runs again on it, whole, and then for each utterance by itself, in the same shape.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.cli import Parser, run
from vits_jax.compilation import use_cache
from vits_jax.programs import Programs
from vits_jax.state import abstract_state
from vits_jax.training.mesh import make_mesh, put_rows, replicated
from vits_jax.training.skipping import Dump, not_finite, read_dump
from vits_jax.training.step import make_train_step


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = Parser("replay", "Repeat a training step from its dump.", prefix="tools/")
    parser.add_argument("dump", metavar="RUN/dumps/step-N.npz", type=Path)
    flags = parser.parse(argv)
    use_cache()
    report(read_dump(flags.dump))


def report(dump: Dump) -> None:
    """Print what the step comes to: the batch, then each of its utterances alone."""
    repeat = _Step(dump)
    values = repeat(dump.batch)
    print(f"step {dump.about['step']} on {dump.checkpoint}")
    for name, value in values.items():
        was = dump.about["values"].get(name)
        print(f"  {name:12} {value!r:24} {'' if was in (None, repr(value)) else f'was {was}'}")
    places = np.flatnonzero(dump.batch["weight"])
    for place, utterance in zip(places, dump.about["utterances"], strict=True):
        alone = {n: np.repeat(x[place : place + 1], len(x), axis=0) for n, x in dump.batch.items()}
        broken = not_finite(repeat(alone))
        print(f"  {utterance}: {f'not finite: {broken}' if broken else 'finite'}")


class _Step:
    """The run's own step, on the state of the dump every time."""

    def __init__(self, dump: Dump):
        source = open_checkpoint(dump.checkpoint)
        config, self._step = source.metadata.config, dump.about["step"]
        self._mesh = make_mesh(config.run.devices, config.run.accelerator)
        sharding = replicated(self._mesh)
        self._state = source.state(abstract_state(config, sharding))
        self._rates = jax.device_put(
            {name: np.float32(rate) for name, rate in dump.about["rates"].items()}, sharding
        )
        self._train_step = Programs(make_train_step(config, self._mesh), "training step")

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, float]:
        state = jax.tree.map(lambda leaf: leaf.copy(), self._state)  # the step takes it over
        step = jax.device_put(np.int32(self._step - 1), replicated(self._mesh))
        shape = (*batch["phoneme_ids"].shape, batch["audio"].shape[1])
        _, metrics = self._train_step(
            shape, state.replace(step=step), put_rows(batch, self._mesh), self._rates
        )
        return {n: float(x) for n, x in jax.device_get(metrics).items() if n != "skipped"}


if __name__ == "__main__":
    sys.exit(main())
