"""What a run tells while it trains: a progress bar, averages for the records."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from tqdm import tqdm

from vits_jax import device_memory
from vits_jax.training.loggers import Records

_LOGGER = logging.getLogger(__name__)

SHOWN = ("loss_g", "loss_d", "mel", "kl", "dur")  # on the progress bar
SPEED_OVER = 50  # steps that rates are averaged over
WAITS_TOO_LONG = 0.05  # for data, of the time: more is warned of
LAG = 2  # steps whose numbers are not read yet, so that the devices never wait for the host


@dataclass(frozen=True)
class StepNumbers:
    """One training step.

    Attributes:
        step, epoch: batches trained with it, epochs finished before it.
        rates: learning rates.
        speech_seconds: of its batch.
        batch: what it was given, on the devices.
        rows: of the dataset in it.
        waited: seconds that passed until that was there.
        values: losses and gradient norms, once they are known.
        skipped: whether its update was, because one of them is not finite.
    """

    step: int
    epoch: int
    rates: Mapping[str, float]
    speech_seconds: float
    batch: Mapping[str, jax.Array | np.ndarray]
    rows: Sequence[int]
    waited: float
    values: Mapping[str, float] = field(default_factory=dict)
    skipped: bool = False


def advice(data_on_device: bool) -> str:
    """What to do where the steps wait for data."""
    if data_on_device:
        return "the corpus is on the devices: other processes take this machine's processors"
    return (
        "--data-on-device keeps the corpus in the devices' memory (160 MB an hour); else put "
        "--dataset-dir on a faster disk, or leave this process more processors"
    )


class Pending:
    """Metrics of the newest steps, read a few steps late."""

    def __init__(self) -> None:
        self._steps: deque[tuple[StepNumbers, dict[str, jax.Array]]] = deque()

    def push(self, known: StepNumbers, metrics: dict[str, jax.Array]) -> None:
        """Add a step that was started: what is known of it, and what it will say, each ``[]``."""
        self._steps.append((known, metrics))

    def ready(self, lag: int = LAG) -> Iterator[StepNumbers]:
        """Steps but for the newest `lag`, oldest first; waits for them."""
        while len(self._steps) > lag:
            known, metrics = self._steps.popleft()
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            skipped = values.pop("skipped") > 0
            yield dataclasses.replace(known, values=values, skipped=skipped)


class Progress:
    """The bar on a terminal, or a line now and then where there is none; and the averages.

    Args:
        step: batches trained so far.
        total: batches at the end of the run; None: no end is set.
        every: steps between two lines, and between two points in the records.
        records: where the averages go.
        remedy: what to do where the steps wait for data.
        bar: whether there is a terminal for it.
        device: whose memory is told.
        padding: share of the frames.

    Attributes:
        verdict: on the run, in a word, once there is one.
    """

    def __init__(
        self,
        step: int,
        total: int | None,
        every: int,
        records: Records,
        remedy: str,
        bar: bool,
        device: jax.Device | None = None,
        padding: float | None = None,
    ):
        self.verdict = ""
        self._device, self._padding = device, padding
        self._every, self._records, self._total = every, records, total
        self._window: list[StepNumbers] = []  # steps since the last point
        self._epoch: list[StepNumbers] = []  # ... and since the last epoch
        self._other, self._steps = 0.0, 0  # seconds that went into other things than steps; those
        self._remedy, self._warned = remedy, False
        # After each recent step: seconds so far without those, of speech, waited for data
        self._clock = deque([(time.perf_counter(), 0.0, 0.0)], maxlen=SPEED_OVER + 1)
        self._bar = tqdm(
            initial=step,
            total=total,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not bar,
        )

    @contextlib.contextmanager
    def other_work(self) -> Iterator[None]:
        """Leaves what is done inside out of the rates: validating, saving."""
        start = time.perf_counter()
        yield
        self.other(time.perf_counter() - start)

    def other(self, seconds: float) -> None:
        """Leave seconds out of the rates, and of the time to go."""
        self._other += seconds
        if not self._bar.disable:
            self._bar.start_t += seconds
            self._bar.last_print_t += seconds

    def step(self, numbers: StepNumbers) -> None:
        """Count a finished step."""
        self._window.append(numbers)
        self._epoch.append(dataclasses.replace(numbers, batch={}, rows=()))
        _, speech, waited = self._clock[-1]
        if self._steps == 0:
            self.other(numbers.waited)  # the first batch is waited for by nobody's fault
        else:
            waited += numbers.waited
        self._steps += 1
        speech += numbers.speech_seconds
        self._clock.append((time.perf_counter() - self._other, speech, waited))
        self._warn_of_waiting()
        try:
            self._bar.update(numbers.step - self._bar.n)
            if not self._bar.disable:
                self._bar.set_postfix(self._shown(), refresh=False)
        except OSError:  # the terminal is gone: the run goes on without a bar
            self._bar.disable = True
        if numbers.step % self._every == 0:
            self.write()

    def write(self) -> None:
        """Put averages since the last time into the records, and on a line without a bar."""
        if not self._window:
            return
        last, speed = self._window[-1], self._speed()
        counted = [numbers.values for numbers in self._window if not numbers.skipped]
        means = {
            name: float(np.mean([v[name] for v in counted])) for name in last.values if counted
        }
        updates = {"updates": float(len(self._window))}
        means |= {**last.rates, **updates, "skipped": float(len(self._window) - len(counted))}
        self._records.scalars(last.step, {f"train/{name}": mean for name, mean in means.items()})
        self._records.scalars(last.step, {"epoch": last.epoch, **speed})
        if self._bar.disable:
            shown = "  ".join(f"{name} {value}" for name, value in self._shown().items())
            rate = speed["speed/steps_per_second"]
            to_go = (
                f"  {tqdm.format_interval((self._total - last.step) / rate)} to go"
                if self._total is not None
                else ""
            )
            _LOGGER.info("step %d  %s  %.2f steps/s%s", last.step, shown, rate, to_go)
        self._window = []

    def epoch(self) -> str:
        """One line about the steps since the last such line; empty for none."""
        steps, self._epoch = self._epoch, []
        if not steps:
            return ""
        last, speed = steps[-1], self._speed()
        counted = [numbers.values for numbers in steps if not numbers.skipped]
        losses = {
            name: f"{np.mean([values[name] for values in counted]):.4f}"
            for name in (*SHOWN, "grad_norm_g", "grad_norm_d")
            if counted and name in counted[0]
        }
        about = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "epoch": last.epoch,
            "step": last.step,
            **losses,
            "skipped": len(steps) - len(counted),
            "speech_per_second": f"{speed['speed/speech_seconds_per_second']:.1f}",
            "waiting": f"{speed['speed/waiting_share']:.2f}",
        }
        return "  ".join(f"{name} {value}" for name, value in about.items())

    def _speed(self) -> dict[str, float]:
        (since, speech_before, waited_before), (now, speech, waited) = (
            self._clock[0],
            self._clock[-1],
        )
        seconds = max(now - since, 1e-9)
        return {
            "speed/steps_per_second": (len(self._clock) - 1) / seconds,
            "speed/speech_seconds_per_second": (speech - speech_before) / seconds,
            # Of steps that were started since: a few more than those that are finished.
            "speed/waiting_share": min((waited - waited_before) / seconds, 1.0),
        }

    def _warn_of_waiting(self) -> None:
        """Once, after so many steps without the first."""
        if self._warned or self._steps <= SPEED_OVER:
            return
        share = self._speed()["speed/waiting_share"]
        if share > WAITS_TOO_LONG:
            self._warned = True
            _LOGGER.warning(
                "warning: the last %d steps waited for data for %.0f %% of their time: %s",
                *(SPEED_OVER, 100 * share, self._remedy),
            )

    def _shown(self) -> dict[str, str | int]:
        last = self._window[-1]
        losses = {name: f"{last.values[name]:.3f}" for name in SHOWN}
        speed = self._speed()
        speech = f"{speed['speed/speech_seconds_per_second']:.1f} s/s"
        wait = f"{100 * speed['speed/waiting_share']:.0f} %"
        shown: dict[str, str | int] = {"epoch": last.epoch, **losses}
        shown |= {"speech": speech, "wait": wait}
        if self._padding is not None:
            shown["padding"] = f"{100 * self._padding:.0f} %"
        if self._device is not None and (size := device_memory.used(self._device)) is not None:
            shown["memory"] = device_memory.gigabytes(size)
        return shown | ({"verdict": self.verdict} if self.verdict else {})

    def close(self) -> None:
        """Leave the bar as it is."""
        with contextlib.suppress(OSError):
            self._bar.close()
