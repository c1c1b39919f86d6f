"""A checkpoint as Piper's trainer writes its own, for ``piper.train fit --ckpt_path``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vits_jax.checkpoints.piper.reading import AVERAGES, DECAY
from vits_jax.checkpoints.store import Metadata
from vits_jax.config import Config, OptimizerConfig
from vits_jax.model.networks import GENERATOR, NETWORKS, parameter_shapes
from vits_jax.state import TrainState

_LIGHTNING = "2.5.0"  # the oldest whose checkpoints look like the ones written here


def to_ckpt(state: TrainState, metadata: Metadata) -> dict[str, Any]:
    """The content of a ``.ckpt`` that ``piper.train fit --ckpt_path`` continues from.

    Args:
        state: a whole one, of numpy arrays.
        metadata: the checkpoint's.
    """
    config, shapes = metadata.config, parameter_shapes(metadata.config)
    step, position = int(state.step), metadata.position
    o = config.optimizer
    now, now_d = metadata.learning_rates()
    falls = o.lr_schedule == "exponential"  # the one that Piper has: others stay where they are
    rates = (
        (o.learning_rate, now, o.lr_decay if falls else 1.0, o.betas),
        (o.learning_rate_d, now_d, o.lr_decay_d if falls else 1.0, o.betas_d),
    )
    averages = {
        f"{network}.{name}": own[name]
        for network, own in state.averages.items()
        for name in shapes[network]
    }
    return {
        "epoch": position.epoch,
        "global_step": len(NETWORKS) * step,
        "pytorch-lightning_version": _LIGHTNING,
        "state_dict": {
            f"{network}.{name}": state.params[network][name]
            for network in shapes
            for name in shapes[network]
        },
        "loops": {"fit_loop": _fit_loop(step, position.epoch, position.batch)},
        "callbacks": {},
        "optimizer_states": [
            _optimizer_state(state, [(n, name) for n in own for name in shapes[n]], o, rate)
            for own, rate in zip(([GENERATOR], list(shapes)[1:]), rates)
        ],
        "lr_schedulers": [
            {
                "gamma": decay,
                "base_lrs": [rate],
                "last_epoch": position.epoch,
                "_step_count": position.epoch + 1,
                "_last_lr": [current],
            }
            for rate, current, decay, _ in rates
        ],
        "hparams_name": "kwargs",
        "hyper_parameters": hyperparameters(config),
        **({AVERAGES: averages, DECAY: o.ema_decay} if averages else {}),
    }


def hyperparameters(config: Config) -> dict[str, Any]:
    """Of Piper's own flags those that it knows; with any other, its command line stops."""
    values = config.to_dict()
    o, taken = values["optimizer"], {}
    for name in (
        *("learning_rate", "learning_rate_d", "betas", "betas_d", "eps"),
        *("lr_decay", "lr_decay_d", "c_kl"),
    ):
        taken[name] = o[name]
    model = {n: v for n, v in values["model"].items() if n != "discriminator_width"}
    if not model["use_mrd"]:
        del model["use_mrd"]  # which Piper has had since 1.5 only
    c_mel = int(o["c_mel"]) if float(o["c_mel"]).is_integer() else o["c_mel"]  # theirs is an int
    more = {"batch_size": config.data.batch_size or 32, "c_mel": c_mel}
    return {**values["audio"], **model, **taken, **more}


def _optimizer_state(
    state: TrainState,
    names: Sequence[tuple[str, str]],
    o: OptimizerConfig,
    rate: tuple[float, float, float, tuple[float, float]],
) -> dict[str, Any]:
    """Of the parameters `names`, each a network's and its own."""
    base, current, _, betas = rate

    def entry(network: str, name: str) -> dict[str, Any]:
        moments = state.optimizer[network]
        count = np.asarray(moments["count"], np.float32)
        return {
            "step": count,
            "exp_avg": moments["mu"][name],
            "exp_avg_sq": moments["nu"][name],
        }

    return {
        "state": {
            i: entry(network, name)
            for i, (network, name) in enumerate(names)
            if name in state.optimizer[network]["mu"]  # PyTorch has none of what it never updated
        },
        "param_groups": [
            {
                "lr": current,
                "betas": tuple(betas),
                "eps": o.eps,
                "weight_decay": o.weight_decay,
                "amsgrad": False,
                "maximize": False,
                "foreach": None,
                "capturable": False,
                "differentiable": False,
                "fused": None,
                "decoupled_weight_decay": True,
                "initial_lr": base,
                "params": list(range(len(names))),
            }
        ],
    }


def _fit_loop(step: int, epoch: int, batch: int) -> dict[str, Any]:
    """Lightning's account of where it is: without it, it begins again at step 0."""

    def progress(total: int, current: int, *names: str) -> dict[str, dict[str, int]]:
        return {"total": dict.fromkeys(names, total), "current": dict.fromkeys(names, current)}

    full, short = ("ready", "started", "processed", "completed"), ("ready", "completed")
    none = {"step": progress(0, 0, *short), "zero_grad": progress(0, 0, *full[:2], "completed")}
    steps = len(NETWORKS) * step
    return {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": step},
        "epoch_loop.batch_progress": progress(step, batch, *full) | {"is_last_batch": False},
        "epoch_loop.scheduler_progress": progress(0, 0, *short),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": none},
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": progress(steps, steps, *short),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": progress(0, 0, *full) | {"is_last_batch": False},
        "epoch_progress": progress(epoch, epoch, *full),
    }
