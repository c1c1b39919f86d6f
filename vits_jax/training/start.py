"""Where a run starts: afresh, where it stopped, or from another run's checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vits_jax.checkpoints import store
from vits_jax.checkpoints.source import Source, open_checkpoint, open_newest
from vits_jax.checkpoints.warm_start import VOCODER, Transfer, from_single_speaker, warm_start
from vits_jax.config import Config, OptimizerConfig
from vits_jax.config_checks import CHECKPOINT_FLAGS
from vits_jax.data.batching.batches import Plan
from vits_jax.data.batching.planning import Planner
from vits_jax.errors import UserError
from vits_jax.learning_rates import decayed
from vits_jax.model.networks import MULTI_RESOLUTION, multi_resolution_shapes, parameter_shapes
from vits_jax.model.parameters import Parameters
from vits_jax.model.parts import check_parts, parts_by_tensor
from vits_jax.state import (
    Position,
    TrainState,
    abstract_state,
    begin_anchors,
    begin_averages,
    create_state,
)
from vits_jax.training import keeping, recovery
from vits_jax.training.mesh import formats, of_this_process, processes_of, put_copies, replicated

_LOGGER = logging.getLogger(__name__)

Fit = Callable[[dict[str, Parameters], Collection[str]], dict[str, Parameters]]

_SCHEDULE = ("learning_rate", "learning_rate_d", "lr_decay", "lr_decay_d", "lr_schedule")
# What may be different when a run is continued: its length, its devices, the learning
# rates, where the corpus is, what is logged and kept. A dataset, and a file of speakers' weights,
# may lie elsewhere: what is in it is compared.
MAY_CHANGE = frozenset(
    {
        *("max_epochs", "max_steps", "max_time", "fast_dev_run"),
        *("devices", "accelerator", "precision", "coordinator", "num_nodes", "node_rank"),
        *_SCHEDULE,
        *("ema_decay", "part_rates", "freeze", "data_on_device"),
        *("keep_speakers", "kept_speakers", "kept_fresh"),
        *("warmup_steps", "kl_annealing_steps", "recover", "recover_steps"),
        *("log_every_n_steps", "profile", "check_val_every_n_epoch"),
        *("logger", "metrics_every", "metric", "stop_when", "price"),
        *("checkpoint_minutes", "checkpoint_epochs", "checkpoint_steps"),
        *("keep_newest", "keep_best", "keep_best_by", "keep_epochs"),
        *("strict", "max_skipped_updates"),
        *("run_dir", "default_root_dir", "dataset_dir", "speaker_weights", "voice_config"),
        "reinit",
        *CHECKPOINT_FLAGS,
    }
)
# Of the model, what changes neither the names nor the shapes of its parameters, or, as a network
# more or less, none of the others'.
NO_PARAMETERS = frozenset({"p_dropout", "segment_size", "use_mrd"})


@dataclass(frozen=True)
class Start:
    """The batches of a run, the first of them, and the checkpoint that it begins with, if any.

    With a `transfer`, what it takes are parameters of a new run; else the whole state. The
    learning rates decay from the epoch `decay_from` on.
    """

    plan: Plan
    position: Position = field(default_factory=Position)
    source: Source | None = None
    transfer: Transfer | None = None
    decay_from: int = 0

    def recovers(self, config: Config) -> bool:
        """Whether the run begins with what the checkpoint lacks (`recovery`)."""
        return bool(config.optimizer.recover_steps) and self.transfer is not None

    def state(self, config: Config, mesh: Mesh, fit: Fit = lambda params, _: params) -> TrainState:
        """Fresh, or from the checkpoint; a copy on every device (`mesh.formats`).

        Args:
            config: of the run.
            mesh: the devices.
            fit: the named tensors of the generator to the others, where a run recovers.
        """
        state = self._state(config, mesh)
        if self.transfer is not None and self.recovers(config):
            halves = recovery.missing(self.transfer)
            state = state.replace(params=fit(state.params, halves) if halves else state.params)
        if config.optimizer.ema_decay and not state.averages:
            if self._goes_on:
                _LOGGER.info("averages of the weights begin at step %d", self.position.step)
            state = begin_averages(state)
        return put_copies(state, formats(state, mesh))

    def shapes(self, config: Config, mesh: Mesh) -> TrainState:
        """The state's, of `jax.ShapeDtypeStruct`."""
        return abstract_state(config, replicated(mesh))

    @property
    def _goes_on(self) -> bool:
        """Whether with the whole state of a checkpoint."""
        return self.source is not None and self.transfer is None

    def _state(self, config: Config, mesh: Mesh) -> TrainState:
        """Without averages where they begin here."""
        if self.source is None or self.transfer is not None:
            state = create_state(config, jax.random.key(config.run.seed))
            if self.transfer is not None and self.source is not None:
                params = self.transfer.apply(state.params, self.source)
                return begin_anchors(state.replace(params=params, averages={}), config)
            return state
        # Several processes read it each for themselves.
        there = mesh if processes_of(mesh) == 1 else of_this_process(mesh)
        shapes = self.shapes(config, there)
        if not self.source.averaged:
            shapes = shapes.replace(averages={})
        elif not shapes.averages:
            _LOGGER.info("--ema-decay 0: the averages in %s are left", self.source.where)
        absent = _absent(shapes, self.source)
        state = self.source.state(shapes.of(shapes.params.keys() - absent))
        for network in absent:
            fresh = create_state(config, jax.random.key(config.run.seed)).of([network])
            params, optimizer = state.params | fresh.params, state.optimizer | fresh.optimizer
            state = state.replace(params=params, optimizer=optimizer)
        return state


def _absent(shapes: TrainState, source: Source) -> set[str]:
    """Networks that a run goes on with though its checkpoint has none."""
    return {MULTI_RESOLUTION} & (shapes.params.keys() - source.shapes.keys())


def find_start(
    config: Config,
    run_dir: Path | None,
    planner: Planner,
    dataset: Mapping[str, Any],
    given: Set[str] | None = None,
    *,
    looking: bool = False,
) -> tuple[Config, Start]:
    """Where to start, and the configuration to go on with.

    A checkpoint in the run directory beats every flag that names another.

    Args:
        config: what was asked for.
        run_dir: the run's directory, if it has one.
        planner: of the run's batches.
        dataset: the dataset's ``config.json``.
        given: flags that the user set (None: all). A run that goes on takes the settings of
            its optimizers from the checkpoint, except those.
        looking: whether nothing is to be changed in `run_dir`.

    Raises:
        UserError: the run directory holds a run of another configuration or other data, or
            the checkpoint is of another model.
    """
    run = config.run
    named = [name for name in CHECKPOINT_FLAGS if getattr(run, name) is not None]
    if run_dir is not None and store.step_directories(run_dir / store.DIRECTORY):
        for name in named:
            _LOGGER.info("%s has a checkpoint: it beats --%s", run_dir, name)
        return _continue(config, run_dir, planner, given, looking)
    if not named:
        config = keeping.not_begun(config).replaced({"recover_steps": None})
        return config, Start(planner.new())
    source = open_checkpoint(getattr(run, named[0]), run.voice_config)
    if named[0] == "resume_from_checkpoint":
        return _resume(config, source, planner, dataset, given)
    unwanted = _unwanted(config, source)
    if named[0] == "resume_from_single_speaker_checkpoint":
        transfer = from_single_speaker(source, parameter_shapes(config), unwanted)
    else:
        only = VOCODER if named[0] == "vocoder_warmstart_ckpt" else ()
        transfer = warm_start(source, config, dataset, only, unwanted)
    transfer.log(f"--{named[0]}", source)
    config = keeping.from_warm_start(config, transfer, source, dataset)
    config = config.replaced({"recover_steps": recovery.steps(config, transfer)})
    return config, Start(planner.new(), source=source, transfer=transfer)


def _unwanted(config: Config, source: Source) -> dict[str, str]:
    """What ``--reinit`` leaves fresh, by ``network.name``, and which of its words does."""
    words = [word.strip() for word in config.run.reinit]
    check_parts(source.shapes, words, "--reinit", f"the checkpoint {source.where}")
    found = parts_by_tensor(source.shapes, words)
    return {
        f"{network}.{name}": f"--reinit {part}"
        for network, own in found.items()
        for name, part in own.items()
    }


def _continue(
    config: Config, run_dir: Path, planner: Planner, given: Set[str] | None, looking: bool
) -> tuple[Config, Start]:
    source, damaged = open_newest(run_dir, strict=config.run.strict)
    metadata = source.metadata
    config = keeping.going_on(_with_optimizer(config, metadata.config.optimizer, given), source)
    changed = store.differences(metadata.config, config, MAY_CHANGE)
    if changed:
        raise UserError(
            f"{run_dir} holds a run of another configuration: {'; '.join(changed)}: "
            "use the same values, or another --run-dir"
        )
    if not planner.same_data(metadata.plan):
        was, now = metadata.plan.get("utterances"), len(planner.dataset)
        how = (
            f"{was} utterances then, {now} now" if was != now else f"{now} utterances, not the same"
        )
        raise UserError(
            f"{run_dir} holds a run on other data: {config.data.dataset_dir} has changed "
            f"({how}): use another --run-dir, "
            f"with --resume_from_checkpoint {run_dir} to train on from there"
        )
    if not planner.same_shares(metadata.plan):
        then, asked = (c.data.speaker_weights for c in (metadata.config, config))
        raise UserError(
            f"{run_dir} holds a run with other rows of each speaker: --speaker-weights was {then} "
            f"and is now {asked}{', with other weights in it' if then == asked else ''}: use the "
            f"same, or another --run-dir with --resume_from_checkpoint {run_dir}"
        )
    if not looking:
        store.set_aside(damaged, source.where)
    _LOGGER.info("continuing at step %s", source.where.name)
    return config, _go_on(source, planner)


def _resume(
    config: Config,
    source: Source,
    planner: Planner,
    dataset: Mapping[str, Any],
    given: Set[str] | None,
) -> tuple[Config, Start]:
    metadata = source.metadata
    theirs = metadata.config
    old = dataclasses.replace(config, audio=theirs.audio, model=theirs.model)
    changed = store.differences(old, config, NO_PARAMETERS)
    if changed:
        raise UserError(
            f"--resume_from_checkpoint {source.where}: another model: {'; '.join(changed)}: "
            "use the checkpoint's --quality, or --warmstart_ckpt to take of it what fits"
        )
    for key in ("phoneme_id_map", "speaker_id_map"):
        was, now = metadata.dataset.get(key), dataset.get(key)
        if was and now and was != now:
            _LOGGER.warning(
                "the dataset's %s is not the checkpoint's: what it learnt of the others it will "
                "say wrong; --warmstart_ckpt goes by their names",
                key,
            )
    optimizer, decay_from = theirs.optimizer, metadata.decay_from
    if given is not None and not given.isdisjoint(_SCHEDULE):
        # What the user says of the rates counts from here on, from the rates there are.
        epochs = metadata.position.epoch - metadata.decay_from
        rate, rate_d = decayed(optimizer, epochs)
        optimizer = dataclasses.replace(optimizer, learning_rate=rate, learning_rate_d=rate_d)
        decay_from = metadata.position.epoch
    config = keeping.going_on(_with_optimizer(config, optimizer, given), source)
    _LOGGER.info("resuming %s", source.where)
    _say_of_multi_resolution(config, source)
    return config, dataclasses.replace(_go_on(source, planner), decay_from=decay_from)


def _say_of_multi_resolution(config: Config, source: Source) -> None:
    """Where one side has those discriminators and the other has not."""
    here = multi_resolution_shapes() if config.model.use_mrd else {}
    there = source.shapes.get(MULTI_RESOLUTION, {})
    left = [*source.unused, *(f"{MULTI_RESOLUTION}.{name}" for name in there if not here)]
    if left:
        _LOGGER.warning(
            "%s: %d tensors are left out%s: %s",
            *(source.where, len(left), "" if here else " (--use-mrd is not set)", ", ".join(left)),
        )
    if here and not there:
        _LOGGER.info(
            "%s has no %s: its %d tensors begin fresh, with fresh moments",
            *(source.where, MULTI_RESOLUTION, len(here)),
        )


def _go_on(source: Source, planner: Planner) -> Start:
    """Where the checkpoint stopped, or at the start of its epoch if the batches are others now."""
    metadata, position = source.metadata, source.metadata.position
    plan = planner.again(metadata.plan)
    if plan is None:
        plan = planner.new()
        if position.batch:
            _LOGGER.warning(
                "batches are made another way than those of %s: going on at the start of epoch %d, "
                "of which %d batches were done",
                *(source.where, position.epoch, position.batch),
            )
        position = dataclasses.replace(position, batch=0)
    return Start(plan, position, source, decay_from=metadata.decay_from)


def _with_optimizer(config: Config, theirs: OptimizerConfig, given: Set[str] | None) -> Config:
    """With the checkpoint's settings of the optimizers, except those that the user gave."""
    ours = vars(config.optimizer)
    kept = {name: value for name, value in ours.items() if given is None or name in given}
    optimizer = dataclasses.replace(theirs, **kept)
    for name, value in vars(optimizer).items():
        if value != ours[name]:
            _LOGGER.info("%s %s, as in the checkpoint", name, value)
    return dataclasses.replace(config, optimizer=optimizer)
