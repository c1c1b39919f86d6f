"""One training step of both networks: of state, batch and learning rates, a new state.

The batch lies in rows over the mesh's ``data`` axis and the step runs inside
``shard_map``: automatic partitioning would gather the whole batch for FFTs and grouped
convolutions. Each device takes gradients of its share of the batch's mean losses
(`objective`); their sum over the devices is the batch's gradient.

A step is six compiled functions, not one: most of it sees segments, whatever the batch's
shape, and is compiled once for all shapes (`composed`).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vits_jax.compilation import outlined
from vits_jax.composed import Call, Composed, Function, of_nothing, of_rows, of_shape, of_text
from vits_jax.config import Config
from vits_jax.model.networks import GENERATOR, apart, judges_of
from vits_jax.model.parameters import Parameters
from vits_jax.model.precision import Precision
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.state import TrainState, abstract_state
from vits_jax.training import optimizer
from vits_jax.training.devices import Devices, stacked, unstacked
from vits_jax.training.gradients import parted, summed
from vits_jax.training.learning import factors, keeping, learning
from vits_jax.training.losses import Rows, count_rows
from vits_jax.training.mesh import AXIS
from vits_jax.training.objective import (
    SHARED,
    Aligned,
    Batch,
    Encoded,
    Factors,
    Metrics,
    Objective,
    Segment,
    added,
    decoder,
    encoders,
    predictor,
)
from vits_jax.training.schedule import Rates

VALIDATION_STEP = 2**31 - 1  # a step that no run reaches: validation's own random numbers

_SHARED, _OWN = P(), P(AXIS)
_PARTS = (encoders, predictor, decoder)  # of the generator's parameters, by the stage they are for


class Part(NamedTuple):
    """Rows that are computed at once: what is read of them, their weights, their random keys."""

    batch: Batch
    rows: Rows
    keys: jax.Array  # [B]


# How they lie on the devices.
_ROWS: Any = Rows(*cast(Any, (_OWN, _SHARED, _SHARED, _SHARED)))
_PART: Any = Part(*cast(Any, (_OWN, _ROWS, _OWN)))


def make_train_step(config: Config, mesh: Mesh, precision: Precision | None = None) -> Composed:
    """``step(state, batch, rates) -> state, metrics``; the old state is donated.

    ``batch`` is laid out in rows over the mesh, the rest is replicated. ``rates`` are
    `schedule.rates`, float32 ``[]`` each. Metrics are the batch's means:
    ``mel`` and ``kl`` unweighted, ``fm`` with its weight, as Piper logs them, and both gradient
    norms, before they are clipped. Where one of them is not finite, only ``step`` changes in the
    state, and ``skipped`` is 1.

    Args:
        config: of the run.
        mesh: the devices.
        precision: of the arithmetic (default: what `config` asks for).
    """
    on = Devices(config, mesh, precision)
    objective = on.objective

    def rows(step: jax.Array, batch: Batch) -> tuple[Part, ...]:
        return _parts(objective, batch, step, 0)

    def encode(params: Parameters, part: Part, weights: Factors) -> Any:
        random = RowRandomness(part.keys, dropout=True)
        found = objective.encode(params, part.batch, part.rows, random, weights)
        segment, aligned, *rest = found
        return segment, aligned, *map(stacked, rest)

    def predict(params: Parameters, aligned: Aligned, rows: Rows, keys: jax.Array) -> Any:
        random = RowRandomness(keys, dropout=True)
        grads, losses = objective.predict(params, aligned, rows, random)
        return on.handed_on(grads), stacked(losses)

    def generate(
        params_g: Parameters,
        params_d: Parameters,
        segment: Segment,
        rows: Rows,
        weights: Factors,
    ) -> Any:
        to_segment, grads, losses = objective.generate(params_g, params_d, segment, rows, weights)
        handed_on = on.handed_on(grads[GENERATOR]), on.handed_on(judges_of(grads))
        return to_segment, *handed_on, stacked(losses)

    def finish(params: Parameters, encoded: Encoded, to_segment: jax.Array) -> Parameters:
        return on.handed_on(objective.finish(params, unstacked(encoded), to_segment))

    def update(state: TrainState, taken: _Taken, rates: Rates) -> tuple[TrainState, Metrics]:
        return _updated(config, on.platform, state, unstacked(taken), rates)

    shapes = abstract_state(config)
    generator, judges = shapes.params[GENERATOR], judges_of(shapes.params)
    own, own_predictor, own_decoder = (on.held(of(generator)) for of in _PARTS)
    learns = learning(config, shapes.params)
    parts = [of(learns[GENERATOR]) for of in _PARTS]
    parts[1] = {n: p for n, p in parts[1].items() if not n.startswith(SHARED)}  # not trained there
    to_own, to_predictor, to_decoder = (on.gradients(part) for part in parts)
    to_judges, held = on.gradients(judges_of(learns)), on.held(shapes)
    taken = _Taken([to_own, to_predictor, to_decoder], to_judges, on(_OWN))
    functions = {
        "rows": Function(on.each(rows, (_SHARED, _OWN), _parts_of(config)), of_shape),
        "encode": Function(
            on.each(encode, (_SHARED, _PART, _SHARED), _OWN, inputs=(own, on(_PART), on(_SHARED))),
            of_shape,
        ),
        "predict": Function(
            on.each(
                predict,
                (_SHARED, _OWN, _ROWS, _OWN),
                _OWN,
                inputs=(own_predictor, on(_OWN), on(_ROWS), on(_OWN)),
                outputs=(to_predictor, on(_OWN)),
            ),
            of_text,
        ),
        "generate": Function(
            on.each(
                generate,
                (_SHARED, _SHARED, _OWN, _ROWS, _SHARED),
                _OWN,
                inputs=(own_decoder, on.held(judges), on(_OWN), on(_ROWS), on(_SHARED)),
                outputs=(on(_OWN), to_decoder, to_judges, on(_OWN)),
            ),
            of_rows,
        ),
        "finish": Function(
            on.each(
                finish,
                (_SHARED, _OWN, _OWN),
                _OWN,
                inputs=(own, on(_OWN), on(_OWN)),
                outputs=to_own,
            ),
            of_shape,
        ),
        "add": Function(on.sum(taken), of_nothing),
        "update": Function(
            on.each(
                update,
                (_SHARED, _OWN, _SHARED),
                _SHARED,
                inputs=(held, taken, on(_SHARED)),
                outputs=(held, on(_SHARED)),
                donate_argnums=0,
            ),
            of_nothing,
        ),
    }

    def step(
        call: Call, state: TrainState, batch: Batch, rates: Rates
    ) -> tuple[TrainState, Metrics]:
        params_g, params_d = state.params[GENERATOR], judges_of(state.params)
        own, own_predictor, own_decoder = (of(params_g) for of in _PARTS)
        weights = rates.get("weights", {})
        total: _Taken | None = None
        for part in call("rows", state.step, batch):
            segment, aligned, encoded, kl = call("encode", own, part, weights)
            to_predictor, dur = call("predict", own_predictor, aligned, part.rows, part.keys)
            to_segment, to_decoder, to_judges, losses = call(
                "generate", own_decoder, params_d, segment, part.rows, weights
            )
            to_own = call("finish", own, encoded, to_segment)
            taken = _Taken([to_own, to_predictor, to_decoder], to_judges, [kl, dur, losses])
            total = taken if total is None else call("add", total, taken)
        return call("update", state, total, rates)

    return Composed(step, functions)


def make_eval_step(config: Config, mesh: Mesh, precision: Precision | None = None) -> Composed:
    """``evaluate(params, batch, first_row) -> metrics``: sums, and their ``weight``.

    Losses are without dropout. ``first_row`` numbers the batch's rows within the validation
    set, so that each utterance meets the same noise and segment every time.
    """
    on = Devices(config, mesh, precision)
    objective = on.objective

    def rows(batch: Batch, first_row: jax.Array) -> tuple[Part, ...]:
        return _parts(objective, batch, VALIDATION_STEP, first_row)

    def encode(params: Parameters, part: Part) -> tuple[Segment, Aligned, Metrics]:
        random = RowRandomness(part.keys, dropout=False)
        *found, losses = objective.encode_losses(params, part.batch, part.rows, random)
        return *found, lax.psum(losses, AXIS)

    def predict(params: Parameters, aligned: Aligned, rows: Rows, keys: jax.Array) -> Metrics:
        random = RowRandomness(keys, dropout=False)
        return lax.psum(objective.predict_losses(params, aligned, rows, random), AXIS)

    def generate(
        params_g: Parameters, params_d: Parameters, segment: Segment, rows: Rows
    ) -> Metrics:
        return lax.psum(objective.generate_losses(params_g, params_d, segment, rows), AXIS)

    def sums(losses: list[Metrics], weight: jax.Array) -> Metrics:
        total = functools.reduce(added, losses)
        return {name: value * weight for name, value in total.items()} | {"weight": weight}

    shapes = abstract_state(config).params
    own, own_predictor, own_decoder = (on.held(of(shapes[GENERATOR])) for of in _PARTS)
    judges = on.held(judges_of(shapes))
    functions = {
        "rows": Function(on.each(rows, (_OWN, _SHARED), _parts_of(config)), of_shape),
        "encode": Function(
            on.each(encode, (_SHARED, _PART), (_OWN, _OWN, _SHARED), inputs=(own, on(_PART))),
            of_shape,
        ),
        "predict": Function(
            on.each(
                predict,
                (_SHARED, _OWN, _ROWS, _OWN),
                _SHARED,
                inputs=(own_predictor, on(_OWN), on(_ROWS), on(_OWN)),
            ),
            of_text,
        ),
        "generate": Function(
            on.each(
                generate,
                (_SHARED, _SHARED, _OWN, _ROWS),
                _SHARED,
                inputs=(own_decoder, judges, on(_OWN), on(_ROWS)),
            ),
            of_rows,
        ),
        "sums": Function(on.each(sums, (_SHARED, _SHARED), _SHARED), of_nothing),
    }

    def evaluate(
        call: Call, params: dict[str, Parameters], batch: Batch, first_row: jax.Array
    ) -> Metrics:
        params_g, params_d = params[GENERATOR], judges_of(params)
        own, own_predictor, own_decoder = (of(params_g) for of in _PARTS)
        losses = []
        for part in call("rows", batch, first_row):
            segment, aligned, kl = call("encode", own, part)
            dur = call("predict", own_predictor, aligned, part.rows, part.keys)
            more = call("generate", own_decoder, params_d, segment, part.rows)
            losses += [kl, dur, more]
        return call("sums", losses, part.rows.rows)

    return Composed(evaluate, functions)


def all_finite(metrics: Metrics) -> jax.Array:
    """bool ``[]``: a gradient that is not finite shows in its norm."""
    return jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))


class _Taken(NamedTuple):
    """Gradients and losses of a device's rows, or of some of them."""

    generator: Any  # list of Parameters: to the `_PARTS` of the generator, `joined`
    judges: Any  # Parameters: to the discriminators, `joined`
    losses: Any  # list of Metrics


def _updated(
    config: Config, platform: str, state: TrainState, taken: _Taken, rates: Rates
) -> tuple[TrainState, Metrics]:
    """On one device. `platform` decides how the program is put together, no number."""
    metrics = lax.psum(functools.reduce(added, taken.losses), AXIS)
    o, grads = config.optimizer, []
    learns = learning(config, state.params)
    for name, parts, like in (
        ("grad_norm_g", taken.generator, [of(learns[GENERATOR]) for of in _PARTS]),
        ("grad_norm_d", [taken.judges], [judges_of(learns)]),
    ):
        reduce = outlined(functools.partial(summed, axis=AXIS), platform)
        sums, metrics[name] = reduce(parts)
        own: Parameters = {}
        for pieces, arrays in zip(sums, like, strict=True):
            own |= parted(pieces, arrays, platform, apart=SHARED)
        if most := o.gradient_clip_val:
            own = optimizer.clip(own, metrics[name], most, o.gradient_clip_algorithm)
        grads.append(own)
    finite = all_finite(metrics)
    to_params = {GENERATOR: grads[0], **apart(grads[1])}
    params, optimizers = {}, {}
    own_factors = factors(config, rates)
    for network in state.params:
        if not learns[network]:
            params[network], optimizers[network] = state.params[network], state.optimizer[network]
            continue
        of_generator = network == GENERATOR
        rate = rates["learning_rate" if of_generator else "learning_rate_d"]
        betas = o.betas if of_generator else o.betas_d
        update = functools.partial(
            optimizer.update,
            betas=betas,
            eps=o.eps,
            weight_decay=o.weight_decay,
            **keeping(config, network),
        )
        with jax.named_scope(f"optimizer_{network}"):
            moved, optimizers[network] = outlined(update, platform)(
                learns[network],
                to_params[network],
                state.optimizer[network],
                learning_rate=rate,
                apply=finite,
                factors=own_factors.get(network),
                anchors=state.anchors.get(network),
            )
            params[network] = state.params[network] | moved
    metrics["skipped"] = jnp.where(finite, 0.0, 1.0)
    state = state.replace(step=state.step + 1, params=params, optimizer=optimizers)
    if o.ema_decay:
        with jax.named_scope("averages"):
            average = outlined(functools.partial(optimizer.averaged, decay=o.ema_decay), platform)
            own = average(state.averages[GENERATOR], params[GENERATOR], apply=finite)
        state = state.replace(averages={GENERATOR: own})
    return state, metrics


def _parts_of(config: Config) -> tuple[Any, ...]:
    """How `_parts` lie on the devices."""
    return (_PART,) * config.data.accumulate_grad_batches


def _parts(
    objective: Objective, batch: Batch, step: jax.Array | int, first_row: jax.Array | int
) -> tuple[Part, ...]:
    """This device's rows in equal parts, as many as an update is accumulated over.

    Losses of a part are shares of a mean over the whole batch: its sums are counted here. The keys
    are of the run's seed, the step, the row in the whole.
    """
    config = objective.config
    parts = config.data.accumulate_grad_batches
    counted = count_rows(batch, config.audio.hop_length, objective.precision.params, AXIS)
    n_rows = batch["weight"].shape[0]
    rows = first_row + lax.axis_index(AXIS) * n_rows + jnp.arange(n_rows, dtype=jnp.int32)
    of_row = (batch, counted.weight, row_keys(config.run.seed, step, rows))
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), of_row)
    found = [jax.tree.map(lambda x, i=i: x[i], split) for i in range(parts)]
    return tuple(Part(own, counted._replace(weight=w), keys) for own, w, keys in found)
