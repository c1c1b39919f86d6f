"""How far each precision is from float32 on this device (``benchmark precision``)."""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from vits_jax.benchmarks.training_step import random_batch
from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.model.forms import forms_for
from vits_jax.model.networks import MULTI_RESOLUTION, folded_networks
from vits_jax.model.precision import POLICIES, Precision
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.state import create_state
from vits_jax.training.losses import count_rows
from vits_jax.training.objective import Objective

Gradients = dict[str, dict[str, np.ndarray]]  # by network and name


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Losses and gradients of one batch in each precision, part by part."""
    device = jax.devices()[0]
    params = jax.jit(lambda key: create_state(config, key).params)(jax.random.key(0))
    batch = random_batch(config, args.batch_size, args.phonemes, args.frames)
    exact, _ = gradients(config, POLICIES["32"], device, params, batch)
    parts: dict[str, dict[str, float]] = defaultdict(dict)
    losses = {}
    for name, precision in POLICIES.items():
        ours, losses[name] = gradients(config, precision, device, params, batch)
        for part, distance in distances(ours, exact).items():
            parts[part][name] = distance
    return {"device": device.device_kind, "quality": args.quality, "losses": losses, "parts": parts}


def distances(ours: Gradients, theirs: Gradients) -> dict[str, float]:
    """How far gradients are from others, as a share of these, part by part."""
    result = {}
    for part, names in _by_part(theirs).items():
        a, b = (
            np.concatenate([grads[n][m].astype(np.float64).ravel() for n, m in names])
            for grads in (ours, theirs)
        )
        scale = np.linalg.norm(b)
        result[part] = float(np.linalg.norm(a - b) / scale) if scale else 0.0
    return result


def _by_part(grads: Gradients) -> dict[str, list[tuple[str, str]]]:
    """Tensors by the part of the network that they belong to, such as ``"dec"``."""
    parts = defaultdict(list)
    for network in grads:
        for name in grads[network]:
            words = name.split(".")
            part = ".".join(words[:2]) if words[0] == "discriminators" else words[0]
            part = f"{network}.{part}" if network == MULTI_RESOLUTION else part
            parts[part].append((network, name))
    return parts


def gradients(
    config: Config, precision: Precision, device: jax.Device, params: Any, batch: Any
) -> tuple[Gradients, dict[str, float]]:
    """Of a batch on a device, in the forms of its platform, with dropout; and the losses."""
    objective = Objective(config, folded_networks(config), precision)

    def function(params: Any, batch: Any) -> Any:
        rows = count_rows(batch, config.audio.hop_length, precision.params, "data")
        keys = row_keys(0, 0, jnp.arange(len(batch["weight"]), dtype=jnp.int32))
        with precision.products(), forms_for(device):
            return objective.gradients(params, batch, rows, RowRandomness(keys, dropout=True))

    mesh = jax.make_mesh((1,), ("data",), devices=[device])
    sharded = jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    grads, metrics = jit(sharded, device.platform)(params, batch)
    return jax.device_get(grads), {name: float(value) for name, value in metrics.items()}
