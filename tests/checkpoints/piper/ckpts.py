"""Lightning checkpoints as Piper's trainers write them, of small networks of the oracle."""

from __future__ import annotations

import functools
import pathlib
from pathlib import Path
from typing import Any

import torch

from tests.parity import oracle
from tests.parity.cases import smallest, tiny
from vits_jax.config import Config

SMALLEST = tiny().replaced({"n_layers": 1, "discriminator_width": 16})
SEVERAL = smallest()  # three speakers
SPECTRAL = SMALLEST.replaced({"use_mrd": True, "segment_size": 1024})


def networks(config: Config, seed: int = 1) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Generator and discriminators without zeros."""
    generator = oracle.randomize(oracle.generator(config.model, config.audio, seed=seed), seed)
    width = config.model.discriminator_width
    return generator, oracle.randomize(oracle.discriminator(width, seed=seed), seed)


def hyperparameters(config: Config) -> dict[str, Any]:
    """Of Piper's own flags some, in the types met in the wild, and some that nobody knows."""
    model, audio = vars(config.model), vars(config.audio)
    wild = {
        "resblock": int(model["resblock"]),
        "resblock_kernel_sizes": str(model["resblock_kernel_sizes"]),
        "resblock_dilation_sizes": [list(row) for row in model["resblock_dilation_sizes"]],
        "upsample_rates": str(model["upsample_rates"]),
        "betas": "(0.8, 0.99)",
        "dataset": [pathlib.PosixPath("/data/a/dataset.jsonl")],
        "default_root_dir": pathlib.PosixPath("/data/a"),
        "sample_bytes": 2,
        "batch_size": "many",
        "quality": "medium",
    }
    names = ("num_symbols", "num_speakers", "segment_size", "gin_channels", "p_dropout")
    return {**audio, **{name: model[name] for name in names}, **wild}


def ckpt(config: Config = SMALLEST, *, steps: int = 2, epoch: int = 3) -> dict[str, Any]:
    """The content of a checkpoint after some updates with random gradients; yours to change."""
    return _with_own_containers(_ckpt(config, steps, epoch))


def _with_own_containers(value: Any) -> Any:
    """The same tensors in other dicts and lists."""
    if isinstance(value, dict):
        return {key: _with_own_containers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_own_containers(item) for item in value]
    return value


@functools.cache
def _ckpt(config: Config, steps: int, epoch: int) -> dict[str, Any]:
    every = dict(zip(("model_g", "model_d"), networks(config)))
    if config.model.use_mrd:
        every["model_mrd"] = oracle.randomize(oracle.multi_resolution(), 1)
    optimizers = oracle.optimizers(config, *every.values())
    for number in range(steps):
        for optimizer in optimizers:
            (group,) = optimizer.param_groups
            for i, parameter in enumerate(group["params"]):
                noise = torch.Generator().manual_seed(1000 * number + i)
                parameter.grad = torch.randn(parameter.shape, generator=noise)
            optimizer.step()
    state_dict = {
        f"{name}.{key}": tensor.clone()
        for name, network in every.items()
        for key, tensor in network.state_dict().items()
    }
    return {
        "epoch": epoch,
        "global_step": 2 * steps,
        "pytorch-lightning_version": "1.7.7",
        "state_dict": state_dict,
        "callbacks": {"ModelCheckpoint{}": {"best_model_path": "", "kth": torch.tensor(1.0)}},
        "optimizer_states": [optimizer.state_dict() for optimizer in optimizers],
        "lr_schedulers": [{"gamma": 0.999875, "last_epoch": epoch}, {"gamma": 0.9999}],
        "hparams_name": "kwargs",
        "hyper_parameters": hyperparameters(config),
    }


def write(values: Any, path: Path) -> Path:
    """As Lightning writes it."""
    torch.save(values, path)
    return path
