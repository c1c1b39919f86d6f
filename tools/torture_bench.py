"""The run that `torture` disturbs: its commands, its states, how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import psutil
from orbax.checkpoint import v1 as ocp

from vits_jax.checkpoints import store
from vits_jax.errors import RunFailed

ROOT = Path(__file__).parent.parent
STEPS = 12
# Starting takes most of the time of such a run: the model is as small as it gets, without the
# stochastic duration predictor, which is slow to trace; and LLVM does not optimise.
_MODEL = {
    "hidden_channels": 16,
    "inter_channels": 16,
    "filter_channels": 32,
    "n_layers": 1,
    "gin_channels": 8,
    "use_sdp": False,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 2], [2, 6]],
    "upsample_rates": [8, 8, 4],
    "upsample_kernel_sizes": [16, 16, 8],
    "upsample_initial_channel": 16,
    "segment_size": 2048,
    "discriminator_width": 16,
    "batch_size": 8,
    "num_buckets": 1,
    "num_test_examples": 2,
}
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_PATIENCE = 1800.0  # seconds that a command may take before it counts as hanging


@dataclass(frozen=True)
class Event:
    """A fault, or some of a kind: what happened, what was lost, whether that is `bad`."""

    happened: str
    lost: str = "nothing"
    bad: bool = False
    times: int = 1


class Command:
    """A started command of vits_jax; its stderr goes to a file."""

    def __init__(self, argv: list[str], log: Path, before: str = "", **environment: str):
        self.log = log
        module, *flags = argv
        code = f"{before}\nimport sys\nfrom vits_jax.{module} import main\nsys.exit(main())"
        self._file = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *flags],
            stdout=subprocess.DEVNULL,
            stderr=self._file,
            cwd=ROOT,
            env=os.environ | environment,
        )

    def text(self) -> str:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until something is true; False if the command ends before."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if condition():
                return True
            if self.process.poll() is not None:
                return condition()
            time.sleep(0.01)
        self.signal(signal.SIGKILL)
        raise RunFailed(f"{self.log}: nothing happened for {_PATIENCE:.0f} s")

    def says(self, text: str) -> bool:
        """Wait until it says something; False if it ends without."""
        return self.until(lambda: text in self.text())

    def signal(self, number: int) -> None:
        """Send a signal and wait for its end."""
        self.process.send_signal(number)
        self.process.wait()

    def ends(self) -> int:
        """Wait for its end; the exit code."""
        self.until(lambda: False)
        self._file.close()
        return self.process.returncode

    def last_line(self) -> str:
        """Of what it said."""
        lines = self.text().strip().splitlines()
        return lines[-1] if lines else ""

    def clear(self, *codes: int) -> bool:
        """Whether it ended with one of some exit codes, one line that says why, no traceback."""
        code = self.ends()
        said = code == 0 or self.last_line().startswith(("error: ", "failed: "))
        return code in codes and said and "Traceback" not in self.text()


class Bench:
    """The demo corpus and a run over it, undisturbed and disturbed.

    Args:
        scratch: an empty directory.
        before: Python that each training process executes first.
        moment: seconds after which a fault comes at the latest, once there is something to
            disturb: a step or two, and their saves.
    """

    def __init__(self, scratch: Path, before: str = "", moment: float = 6.0):
        self.scratch = scratch
        self.moment = moment
        self._before = before
        self.data = scratch / "data"
        self.cache = scratch / "cache"
        self._model = scratch / "small.yaml"
        self._count = 0
        self.whole = ""  # of the undisturbed run's last state
        self.prepared = ""  # of the undisturbed dataset

    def prepare(self) -> None:
        """Prepare and train undisturbed; what is compiled is kept for later runs."""
        self._model.write_text(json.dumps(_MODEL))  # JSON is YAML
        if self.preprocess(self.data).ends() or self.train(self.new()).ends():
            raise RunFailed(f"the undisturbed run failed: {self.scratch}/*.log")
        self.prepared = dataset_digest(self.data)
        self.whole = state_digest(self.latest)

    def new(self, parent: Path | None = None) -> Path:
        """The name of a run directory."""
        self._count += 1
        self.latest = (parent or self.scratch) / f"run{self._count}"
        return self.latest

    def preprocess(self, output: Path, **environment: str) -> Command:
        """Start preparing the corpus."""
        return Command(
            [
                "preprocess",
                f"--input-dir={ROOT / 'examples' / 'demo'}",
                f"--output-dir={output}",
                *("--language=en-us", "--sample-rate=16000", "--dataset-format=ljspeech"),
            ],
            self._log(),
            **environment,
        )

    def train(
        self,
        run_dir: Path,
        *more: str,
        data: Path | None = None,
        before: str = "",
        cache: Path | None = None,
    ) -> Command:
        """Start training, or go on with it."""
        return Command(
            [
                "train",
                f"--dataset-dir={data or self.data}",
                f"--run-dir={run_dir}",
                *(f"--config={self._model}", f"--max_steps={STEPS}", "--checkpoint-steps=1"),
                *("--check_val_every_n_epoch=1", "--keep-newest=2", *more),
            ],
            self._log(),
            self._before + before,
            JAX_COMPILATION_CACHE_DIR=str(cache or self.cache),
            JAX_PLATFORMS="cpu",
            XLA_FLAGS=_QUICK,
        )

    def finish(self, run_dir: Path, event: Callable[[bool], Event]) -> Event:
        """Let a run end undisturbed; `event` is told whether all is as it should be."""
        command = self.train(run_dir)
        fine = command.clear(0) and state_digest(run_dir) == self.whole
        return event(fine)

    def _log(self) -> Path:
        self._count += 1
        return self.scratch / f"{self._count}.log"


def steps(run_dir: Path) -> list[int]:
    """The steps that a run has saved."""
    return [int(d.name) for d in store.step_directories(run_dir / store.DIRECTORY)]


def state_digest(run_dir: Path) -> str:
    """SHA-256 of every number of a run's newest state."""
    step_dir = store.resolve(run_dir)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sharding info not provided", UserWarning)
        state = ocp.load(step_dir)
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def dataset_digest(directory: Path) -> str:
    """SHA-256 of what a dataset says and of every sample."""
    from vits_jax.data.manifest import load_dataset

    digest = hashlib.sha256()
    dataset = load_dataset(directory, hop_length=256, min_samples=385)
    for row in range(len(dataset)):
        digest.update(dataset.phoneme_ids(row).tobytes() + dataset.audio(row).tobytes())
    for name in ("config.json", "dataset.jsonl"):
        digest.update((directory / name).read_bytes().replace(str(directory).encode(), b""))
    return digest.hexdigest()


def flip(path: Path, random: np.random.Generator) -> Mapping[str, int]:
    """Flip one bit of a file; where."""
    content = bytearray(path.read_bytes())
    place, bit = int(random.integers(len(content))), int(random.integers(8))
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return {"place": place, "bit": bit}


def copy(source: Path, target: Path) -> Path:
    """A copy of a directory, in place of what was there."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def workers(process: int) -> list[int]:
    """Process ids of the workers that a process has spawned."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process).children()
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    return []


def position(run_dir: Path) -> Mapping[str, int]:
    """Where a run's newest checkpoint goes on."""
    path = store.resolve(run_dir) / "_CHECKPOINT_METADATA"
    return json.loads(path.read_text())["custom_metadata"]["position"]
