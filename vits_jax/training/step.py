"""One training step of both networks, as a pure function of state, batch and learning rates.

The batch lies in rows over the mesh's ``data`` axis and the step runs inside
``shard_map``: automatic partitioning would gather the whole batch for FFTs and grouped
convolutions. Each device takes gradients of its share of the batch's mean losses
(`objective`); their sum over the devices is the batch's gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vits_jax.compilation import jit, outlined
from vits_jax.config import Config
from vits_jax.model.forms import forms_for
from vits_jax.model.networks import DISCRIMINATOR, GENERATOR, folded_networks
from vits_jax.model.parameters import Parameters
from vits_jax.model.precision import POLICIES, Precision, chosen
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.state import TrainState, abstract_state
from vits_jax.training import optimizer
from vits_jax.training.gradients import summed
from vits_jax.training.losses import Rows, count_rows
from vits_jax.training.mesh import formats, replicated
from vits_jax.training.objective import Batch, Metrics, Objective

Rates = dict[str, jax.Array]

VALIDATION_STEP = 2**31 - 1  # a step that no run reaches: validation's own random numbers
_AXIS = "data"  # of the mesh, over which rows are spread


class _Part(NamedTuple):
    """Some of a device's rows: what is read of them, their weights, their random keys."""

    batch: Batch
    weight: jax.Array
    keys: jax.Array

    def rows(self, whole: Rows) -> Rows:
        """Their weights, beside what the whole batch holds."""
        return whole._replace(weight=self.weight)


def make_train_step(
    config: Config, mesh: Mesh, precision: Precision | None = None
) -> jax.stages.Wrapped:
    """``step(state, batch, rates) -> state, metrics``, jitted; the old state is donated.

    ``batch`` is laid out in rows over the mesh, the rest is replicated. ``rates`` holds
    ``learning_rate`` and ``learning_rate_d``, float32 ``[]``. Metrics are the batch's means:
    ``mel`` and ``kl`` unweighted, ``fm`` with its weight, as Piper logs them, and both gradient
    norms, before they are clipped. Where one of them is not finite, only ``step`` changes in the
    state, and ``skipped`` is 1.

    Args:
        config: of the run.
        mesh: the devices.
        precision: of the arithmetic (default: what `config` asks for).
    """
    platform = mesh.devices.flat[0].platform
    precision = precision or POLICIES[chosen(config.run.precision, platform)]
    objective = Objective(config, folded_networks(config), precision)

    def step(state: TrainState, batch: Batch, rates: Rates) -> tuple[TrainState, Metrics]:
        with precision.products(), forms_for(mesh.devices.flat[0]):
            return _train_step(objective, state, batch, rates, platform)

    held = formats(abstract_state(config), mesh)
    return _over_rows(
        step, mesh, (P(), P(_AXIS), P()), held, (held, replicated(mesh)), donate_argnums=0
    )


def make_eval_step(
    config: Config, mesh: Mesh, precision: Precision | None = None
) -> jax.stages.Wrapped:
    """``evaluate(params, batch, first_row) -> metrics``, jitted: sums, and their ``weight``.

    Losses are without dropout. ``first_row`` numbers the batch's rows within the validation
    set, so that each utterance meets the same noise and segment every time.
    """
    platform = mesh.devices.flat[0].platform
    precision = precision or POLICIES[chosen(config.run.precision, platform)]
    objective = Objective(config, folded_networks(config), precision)

    def evaluate(params: dict[str, Parameters], batch: Batch, first_row: jax.Array) -> Metrics:
        with precision.products(), forms_for(mesh.devices.flat[0]):
            return _eval_step(objective, params, batch, first_row, platform)

    held = formats(abstract_state(config).params, mesh)
    return _over_rows(evaluate, mesh, (P(), P(_AXIS), P()), held, replicated(mesh))


def all_finite(metrics: Metrics) -> jax.Array:
    """bool ``[]``: a gradient that is not finite shows in its norm."""
    return jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))


def _train_step(
    objective: Objective, state: TrainState, batch: Batch, rates: Rates, platform: str
) -> tuple[TrainState, Metrics]:
    """On one device's rows. `platform` decides how the program is put together, no number."""
    config, precision = objective.config, objective.precision
    rows = count_rows(batch, config.audio.hop_length, precision.params, _AXIS)

    def gradients(part: _Part) -> tuple[dict[str, Parameters], Metrics]:
        random = RowRandomness(part.keys, dropout=True)
        return objective.gradients(state.params, part.batch, part.rows(rows), random)

    whole = _Part(batch, rows.weight, _keys(config, state.step, batch))
    grads, metrics = _over_parts(gradients, whole, config.data.accumulate_grad_batches, platform)
    metrics = lax.psum(metrics, _AXIS)
    for network, name in ((GENERATOR, "grad_norm_g"), (DISCRIMINATOR, "grad_norm_d")):
        reduce = outlined(functools.partial(summed, axis=_AXIS, platform=platform), platform)
        grads[network], metrics[name] = reduce(grads[network])
        if most := config.optimizer.gradient_clip_val:
            algorithm = config.optimizer.gradient_clip_algorithm
            grads[network] = optimizer.clip(grads[network], metrics[name], most, algorithm)
    finite = all_finite(metrics)
    o = config.optimizer
    params, optimizers = {}, {}
    for network, rate, betas in (
        (GENERATOR, rates["learning_rate"], o.betas),
        (DISCRIMINATOR, rates["learning_rate_d"], o.betas_d),
    ):
        update = functools.partial(
            optimizer.update, betas=betas, eps=o.eps, weight_decay=o.weight_decay
        )
        with jax.named_scope(f"optimizer_{network}"):
            params[network], optimizers[network] = outlined(update, platform)(
                state.params[network],
                grads[network],
                state.optimizer[network],
                learning_rate=rate,
                apply=finite,
            )
    metrics["skipped"] = jnp.where(finite, 0.0, 1.0)
    return state.replace(step=state.step + 1, params=params, optimizer=optimizers), metrics


def _over_parts(of: Callable[[_Part], Any], whole: _Part, parts: int, platform: str) -> Any:
    """The sum of `of` over equal parts of this device's rows, one after the other.

    That is `of` the whole, in the memory of a part: its losses are shares of a mean over
    what was counted before.
    """
    if parts == 1:
        return of(whole)

    def add(sums: Any, part: _Part) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, of(part)), None

    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), whole)
    shapes = jax.eval_shape(of, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # XLA:CPU runs convolutions inside a loop forty times slower (docs/log.md).
    sums, _ = lax.scan(add, zeros, split, unroll=platform == "cpu")
    return sums


def _eval_step(
    objective: Objective,
    params: dict[str, Parameters],
    batch: Batch,
    first_row: jax.Array,
    platform: str,
) -> Metrics:
    """Sums over the rows, and ``weight``, their number."""
    config, precision = objective.config, objective.precision
    rows = count_rows(batch, config.audio.hop_length, precision.params, _AXIS)

    def losses(part: _Part) -> Metrics:
        random = RowRandomness(part.keys, dropout=False)
        return objective.losses(params, part.batch, part.rows(rows), random)

    whole = _Part(batch, rows.weight, _keys(config, VALIDATION_STEP, batch, first_row))
    sums = _over_parts(losses, whole, config.data.accumulate_grad_batches, platform)
    metrics = lax.psum(sums, _AXIS)
    return {name: value * rows.rows for name, value in metrics.items()} | {"weight": rows.rows}


def _keys(
    config: Config, step: jax.Array | int, batch: Batch, first_row: jax.Array | int = 0
) -> jax.Array:
    """Keys of this device's rows ``[B]``: of the run's seed, the step, the row in the whole."""
    n_rows = batch["weight"].shape[0]
    rows = lax.axis_index(_AXIS) * n_rows + jnp.arange(n_rows, dtype=jnp.int32)
    return row_keys(config.run.seed, step, first_row + rows)


def _over_rows(
    function: Callable[..., Any],
    mesh: Mesh,
    specs: tuple[P, ...],
    held: Any,
    out: Any,
    **options: Any,
) -> jax.stages.Wrapped:
    """Each device on its rows, jitted; `held` and `out` say how first argument and result lie."""
    # check_vma would insert the gradients' sums by itself, once per tensor where it is used;
    # one explicit psum at the end is what the compiler combines best.
    sharded = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    return jit(
        sharded,
        mesh.devices.flat[0].platform,
        in_shardings=(held, *(NamedSharding(mesh, spec) for spec in specs[1:])),
        out_shardings=out,
        **options,
    )
