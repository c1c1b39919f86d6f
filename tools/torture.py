#!/usr/bin/env python3
"""Real runs under faults: what happens, and what is lost.

python tools/torture.py [--faults kill,flip] [--kills 50] [--flips 100] [--seed 0] [--report FILE]

Prepares the demo corpus, trains it undisturbed for some steps with a checkpoint at each,
and then again under each fault: the end has to be the same, bit for bit. Faults that
need a small file system mount a tmpfs, which takes root; without it they are left out,
and the table says so.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools import torture_bench, torture_faults
from vits_jax.cli import Parser, run
from vits_jax.errors import RunFailed, UserError

FAULTS: dict[str, tuple[str, Callable[..., Iterable[torture_bench.Event]]]] = {
    "kill": ("SIGKILL while training, saving at each step", torture_faults.kill),
    "kill-preparing": ("SIGKILL while preparing", torture_faults.kill_preparing),
    "kill-compiling": ("SIGKILL while compiling", torture_faults.kill_compiling),
    "kill-validating": ("SIGKILL while validating", torture_faults.kill_validating),
    "terminate": ("SIGTERM", torture_faults.terminate),
    "full": ("no space left on the run's disk, for a while", torture_faults.full_for_a_while),
    "full-at-the-end": ("no space left until the end", torture_faults.full_to_the_end),
    "read-only": ("the run's disk turns read-only, for a while", torture_faults.read_only),
    "flip": ("a flipped bit in a checkpoint", torture_faults.flip_checkpoints),
    "flip-dataset": ("a flipped bit in the dataset directory", torture_faults.flip_dataset),
    "flip-cache": ("a flipped bit in a compiled program", torture_faults.flip_programs),
    "clock": ("a clock that jumps by days", torture_faults.clock),
    "second": ("a second start on the same directory", torture_faults.second_start),
    "worker": ("a worker of preprocess killed", torture_faults.kill_worker),
}
"""By name: what it is, and what does it."""


@dataclass(frozen=True)
class Row:
    """Of the table; ``bad`` are things that must not happen."""

    fault: str
    times: int
    happened: str
    lost: str
    bad: int


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if something happened that must not."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = Parser("torture", "Real runs under faults.", prefix="tools/")
    parser.add_argument("--faults", default=",".join(FAULTS), help="(default: all of them)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=50, help="of training (default: 50)")
    parser.add_argument("--flips", type=int, default=100, help="in checkpoints (default: 100)")
    parser.add_argument("--times", type=int, default=5, help="each other fault (default: 5)")
    parser.add_argument("--report", type=Path, help="also write the table to this file")
    flags = parser.parse(argv)
    names = flags.faults.split(",")
    for name in names:
        if name not in FAULTS:
            raise UserError(f"--faults {name}: expected some of {','.join(FAULTS)}")
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        bench = torture_bench.Bench(Path(scratch))
        bench.prepare()
        rows = []
        for name in names:
            times = {"kill": flags.kills, "flip": flags.flips}.get(name, flags.times)
            rows.append(inflict(name, bench, flags.seed, times))
            print(f"{rows[-1].fault}: {rows[-1].happened}; lost: {rows[-1].lost}", flush=True)
    table = _table(rows)
    print(table)
    if flags.report is not None:
        flags.report.write_text(table, encoding="utf-8")
    if bad := sum(row.bad for row in rows):
        raise RunFailed(f"{bad} of {sum(row.times for row in rows)} faults had a bad end")


def inflict(name: str, bench: torture_bench.Bench, seed: int, times: int) -> Row:
    """One fault, so many times, on a prepared bench."""
    what, fault = FAULTS[name]
    random = np.random.default_rng([seed, list(FAULTS).index(name)])
    return _row(what, list(fault(bench, random, times)))


def _row(what: str, events: Sequence[torture_bench.Event]) -> Row:
    happened: Counter[str] = Counter()
    for event in events:
        happened[event.happened] += event.times
    lost = Counter(event.lost for event in events)
    return Row(
        what,
        sum(event.times for event in events),
        "; ".join(f"{text} ({n})" if n > 1 else text for text, n in happened.most_common()),
        "; ".join(text for text, _ in lost.most_common()),
        sum(event.bad for event in events),
    )


def _table(rows: Sequence[Row]) -> str:
    lines = ["| fault | times | what happened | what was lost |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.fault} | {row.times} | {row.happened} | {row.lost} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
