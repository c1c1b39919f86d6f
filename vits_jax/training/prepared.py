"""All that is known of a run before it begins: devices, data, place, programs to compile."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vits_jax.cli import version
from vits_jax.compiler import Compiler
from vits_jax.config import Config
from vits_jax.config_checks import check, check_batch, doubts
from vits_jax.data.batching.batches import Plan
from vits_jax.data.batching.planning import Planner
from vits_jax.data.manifest import Dataset, load_dataset
from vits_jax.data.remote import local_view
from vits_jax.data.split import Split, split
from vits_jax.data.voice_config import read_config
from vits_jax.model.networks import parameter_shapes
from vits_jax.model.parts import check_frozen, check_parts, rates_of
from vits_jax.programs import Programs
from vits_jax.training.evaluation import Evaluator
from vits_jax.training.examples import SpokenExamples
from vits_jax.training.feeding import Feeder, corpus_on_devices
from vits_jax.training.gains import Gains
from vits_jax.training.memory import StepMemory
from vits_jax.training.mesh import check_batch_size, make_mesh
from vits_jax.training.processes import ALONE, Processes
from vits_jax.training.recordings import Recordings
from vits_jax.training.start import Start, find_start
from vits_jax.training.step import make_train_step
from vits_jax.training.timeline import Timeline
from vits_jax.training.validation import Validation

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a run is made of before anything is compiled or computed."""

    config: Config
    mesh: Mesh
    dataset: Dataset
    parts: Split
    start: Start
    per_epoch: int  # batches of each epoch that are trained on
    identity: Mapping[str, Any]  # of the batches, for the checkpoints

    @property
    def plan(self) -> Plan:
        """The batches."""
        return self.start.plan

    @property
    def memory(self) -> StepMemory:
        """What steps take of the devices."""
        resident = corpus_on_devices(self.config, self.dataset)
        return StepMemory(self.config, self.mesh, resident)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of batches: rows over all devices, phonemes, frames."""
        return [bucket.shape for bucket in self.plan.used_buckets]


def of_dataset(config: Config) -> Config:
    """With what only the dataset can say; warns where its rate is not the preset's.

    Raises:
        UserError: it cannot be read, or the configuration is not possible.
    """
    check(config)
    voice = read_config(local_view(str(config.data.dataset_dir)))
    config = config.replaced(
        {
            "sample_rate": voice.sample_rate,
            "num_symbols": voice.num_symbols,
            "num_speakers": voice.num_speakers,
        }
    )
    check(config)
    for doubt in doubts(config.audio):
        _LOGGER.warning("warning: %s", doubt)
    return config


def prepare(
    config: Config,
    given: Set[str] | None,
    run_dir: Path | None,
    timeline: Timeline,
    looking: bool = False,
) -> Prepared:
    """All that is known of a run before it is begun.

    Args:
        config: `of_dataset`.
        given: see `train`.
        run_dir: the run's directory, if it has one.
        timeline: is told of devices and data.
        looking: whether nothing is to be changed in `run_dir`.

    Raises:
        UserError: the configuration, or the data, cannot be trained on.
    """
    run = config.run

    # Mesh
    mesh = make_mesh(run.devices, run.accelerator)
    timeline.done("devices")
    check_batch(config.data)
    if config.data.batch_size is not None:
        check_batch_size(config.data.batch_size, mesh)

    # Data
    dataset = load_dataset(
        local_view(str(config.data.dataset_dir)),
        hop_length=config.audio.hop_length,
        min_samples=config.audio.min_samples,
        max_phoneme_ids=config.data.max_phoneme_ids,
        max_frames=config.data.max_frames,
    )
    parts = split(dataset.keys, config.data.validation_split, config.data.num_test_examples)
    planner = Planner(config, dataset, parts, mesh.size)

    # Place
    raw = dataset.config.raw
    config, start = find_start(config, run_dir, planner, raw, given, looking=looking)
    check_parts(parameter_shapes(config), rates_of(config), "--part-rates")
    check_frozen(config)
    per_epoch, identity = planner.batches_per_epoch(start.plan), planner.identity(start.plan)
    timeline.done("data")
    return Prepared(config, mesh, dataset, parts, start, per_epoch, identity)


def started_alike(prepared: Prepared, processes: Processes) -> None:
    """Before the first step: have all processes the same version, flags, data and start?

    Raises:
        UserError: one has not; says which, and what.
    """
    own = ("node_rank", "dataset_dir")  # a dataset may lie elsewhere: its content is compared
    flags = {
        f"--{name.replace('_', '-')}": value
        for values in prepared.config.to_dict().values()
        for name, value in values.items()
        if name not in own
    }
    source = prepared.start.source
    processes.agree(
        {
            "vits_jax": version(),
            "jax": jax.__version__,
            "devices": len(prepared.mesh.local_devices),
            **flags,
            "data": prepared.identity["data"],
            "batches": prepared.identity["plan"],
            "start": None if source is None else source.where.name,
        }
    )


def make_programs(
    prepared: Prepared,
    compiler: Compiler,
    feeder: Feeder,
    memory: StepMemory,
    processes: Processes = ALONE,
) -> tuple[Programs, list[Evaluator]]:
    """The training step, and what looks at the run; nothing is compiled yet.

    Args:
        memory: is told what the step takes.
    """
    config, mesh, dataset = prepared.config, prepared.mesh, prepared.dataset
    plan, parts = prepared.plan, prepared.parts
    step = make_train_step(config, mesh)
    train_step = Programs(
        step, "training step", compiler, mesh.size, memory.compiled, processes.meet
    )
    evaluators: list[Evaluator] = [
        Validation(config, mesh, dataset, plan, parts.validation, feeder, compiler, processes)
    ]
    if processes.first and not config.run.fast_dev_run:
        of_examples = (config, mesh, dataset, plan, parts.test, compiler)
        evaluators += [SpokenExamples(*of_examples), Recordings(*of_examples), Gains(config)]
    return train_step, evaluators
