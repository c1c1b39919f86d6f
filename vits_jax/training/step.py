"""One training step of both networks, as a pure function of state, batch and learning rates.

Piper's order: the generator runs once; both losses are taken at the weights from
before either update, the discriminators' on the detached audio. The discriminators
run forward once, on real and generated audio as one batch, and both gradients pull
back through that pass (see ``model/discriminator.py``).

The batch lies in rows over the mesh's ``data`` axis and the step runs inside
``shard_map``: automatic partitioning would gather the whole batch for FFTs and grouped
convolutions. Each device takes gradients of its share of the batch's mean losses; their
sum over the devices is the batch's gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vits_jax.audio import dequantise, mel_from_spectrogram, mel_spectrogram, spectrogram
from vits_jax.compilation import apart, jit
from vits_jax.config import Config
from vits_jax.model.discriminator import Features
from vits_jax.model.networks import Networks, abstract_networks, initial_parameters
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.randomness import Randomness, RowRandomness, row_keys
from vits_jax.model.synthesizer import TrainingOutput, cut
from vits_jax.training import losses, optimizer

State = dict[str, Any]
Batch = dict[str, jax.Array]
Rates = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

VALIDATION_STEP = 2**31 - 1  # a step that no run reaches: validation's own random numbers


def create_state(config: Config, key: jax.Array) -> State:
    """A fresh run's state: step 0, Piper's initial values, AdamW's zero moments."""
    params = initial_parameters(config, key)
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "optimizer": {name: optimizer.init(network) for name, network in params.items()},
    }


class Generated(NamedTuple):
    """One pass of the generator over this device's rows."""

    output: TrainingOutput
    real: jax.Array  # [B, S], the segment of the recording
    mel: jax.Array  # loss, this device's share
    kl: jax.Array
    dur: jax.Array


def generate(
    config: Config, networks: Networks, params: Parameters, batch: Batch, random: Randomness
) -> Generated:
    """Run the generator and take the losses that need no discriminator."""
    audio_config, dtype = config.audio, params["enc_p.emb.weight"].dtype
    weight, n = batch["weight"].astype(dtype), _counts(config, batch, dtype)
    audio = dequantise(batch["audio"], dtype)
    spec = spectrogram(audio, batch["audio_lengths"], audio_config)
    output = bind(networks.generator, params)(
        batch["phoneme_ids"],
        batch["phoneme_lengths"],
        spec,
        batch["audio_lengths"] // audio_config.hop_length,
        batch["speaker_ids"],
        random,
    )
    # The target mel is cut from the whole utterance's, the generated one has the segment only.
    start, size = output.segment_start, config.segment_frames
    target_mel = mel_from_spectrogram(cut(spec, start, size), audio_config)
    mel = mel_spectrogram(output.audio, audio_config)
    real = cut(audio, start * audio_config.hop_length, config.model.segment_size)
    return Generated(
        output,
        real,
        losses.mel_loss(target_mel, mel, weight, n),
        losses.kl_loss(output, weight, n),
        losses.duration_loss(output, weight, n),
    )


def _counts(config: Config, batch: Batch, dtype: jnp.dtype) -> losses.Counts:
    weight = batch["weight"].astype(dtype)
    frames = (batch["audio_lengths"] // config.audio.hop_length).astype(dtype)
    sums = [weight, weight * frames, weight * batch["phoneme_lengths"].astype(dtype)]
    return losses.Counts(*lax.psum([jnp.sum(x) for x in sums], "data"))


def _split(features: list[Features]) -> tuple[list[Features], list[Features]]:
    """Feature maps of real and generated audio, from those of both as one batch."""
    real = [[f[: f.shape[0] // 2] for f in maps] for maps in features]
    return real, [[f[f.shape[0] // 2 :] for f in maps] for maps in features]


def gradients(
    config: Config,
    networks: Networks,
    params: dict[str, Parameters],
    batch: Batch,
    random: Randomness,
) -> tuple[dict[str, Parameters], Metrics]:
    """Gradients and losses of both networks; of this device's rows, to be summed over devices."""
    weights = config.optimizer
    dtype = params["model_g"]["enc_p.emb.weight"].dtype
    weight, n = batch["weight"].astype(dtype), _counts(config, batch, dtype)

    def generator(parameters: Parameters) -> tuple[tuple[jax.Array, jax.Array], Generated]:
        g = generate(config, networks, parameters, batch, random)
        own = weights.c_mel * g.mel + weights.c_kl * g.kl + weights.c_dur * g.dur
        return (own, g.output.audio), g

    (own, audio), generator_pullback, g = jax.vjp(generator, params["model_g"], has_aux=True)

    def discriminator(parameters: Parameters) -> tuple[jax.Array, list[Features]]:
        both = jnp.concatenate([g.real, lax.stop_gradient(audio)])
        features = bind(networks.discriminator, parameters)(both)
        return losses.discriminator_loss(*_split(features), weight, n), features

    (disc, features), grads_d = jax.value_and_grad(discriminator, has_aux=True)(params["model_d"])
    real, generated = _split(features)

    def adversarial(generated: list[Features]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        gen = losses.generator_loss(generated, weight, n)
        fm = weights.c_fm * losses.feature_loss(real, generated, weight, n)
        return weights.c_gen * gen + fm, (gen, fm)

    (adversarial_loss, (gen, fm)), to_features = jax.value_and_grad(adversarial, has_aux=True)(
        generated
    )

    def linearised(tangent: jax.Array) -> list[Features]:
        return bind(networks.discriminator, params["model_d"]).linearised(generated, tangent)

    (to_audio,) = jax.linear_transpose(linearised, audio)(to_features)
    (grads_g,) = generator_pullback((jnp.ones_like(own), to_audio))

    metrics = {
        "loss_g": own + adversarial_loss,
        "loss_d": disc,
        "mel": g.mel,
        "kl": g.kl,
        "dur": g.dur,
        "gen": gen,
        "fm": fm,
        "disc": disc,
    }
    return {"model_g": grads_g, "model_d": grads_d}, metrics


def _update(
    config: Config,
    betas: tuple[float, float],
    params: Parameters,
    grads: Parameters,
    state: optimizer.OptimizerState,
    rate: jax.Array,
    finite: jax.Array,
) -> tuple[Parameters, optimizer.OptimizerState]:
    """One network's AdamW step, or none where a number of the step is not finite."""
    o = config.optimizer
    before = (params, state)
    after = optimizer.update(
        params,
        grads,
        state,
        learning_rate=rate,
        betas=betas,
        eps=o.eps,
        weight_decay=o.weight_decay,
    )
    return jax.tree.map(lambda old, new: jnp.where(finite, new, old), before, after)


def train_step(
    config: Config,
    networks: Networks,
    state: State,
    batch: Batch,
    rates: Rates,
    platform: str,
) -> tuple[State, Metrics]:
    """The step on one device's rows of the batch, inside ``shard_map``.

    ``platform`` (``"cpu"``, ...) decides how the program is put together, not what it computes.
    """
    n_rows = batch["weight"].shape[0]
    rows = lax.axis_index("data") * n_rows + jnp.arange(n_rows, dtype=jnp.int32)
    random = RowRandomness(row_keys(config.run.seed, state["step"], rows), dropout=True)
    grads, metrics = gradients(config, networks, state["params"], batch, random)
    grads, metrics = lax.psum((grads, metrics), "data")
    for name, which in (("model_g", "g"), ("model_d", "d")):
        metrics[f"grad_norm_{which}"] = apart(optax.tree.norm, platform)(grads[name])
    finite = all_finite(metrics)
    params, optimizers = {}, {}
    for name, rate, betas in (
        ("model_g", rates["learning_rate"], config.optimizer.betas),
        ("model_d", rates["learning_rate_d"], config.optimizer.betas_d),
    ):
        update = apart(functools.partial(_update, config, betas), platform)
        params[name], optimizers[name] = update(
            state["params"][name], grads[name], state["optimizer"][name], rate, finite
        )
    metrics["skipped"] = jnp.where(finite, 0.0, 1.0)
    return {"step": state["step"] + 1, "params": params, "optimizer": optimizers}, metrics


def all_finite(metrics: Metrics) -> jax.Array:
    """bool ``[]``: a gradient that is not finite shows in its norm."""
    return jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))


def eval_step(
    config: Config,
    networks: Networks,
    params: dict[str, Parameters],
    batch: Batch,
    first_row: jax.Array,
) -> Metrics:
    """Losses without dropout, as sums over the rows, and ``weight``, their number."""
    n_rows = batch["weight"].shape[0]
    rows = first_row + lax.axis_index("data") * n_rows + jnp.arange(n_rows, dtype=jnp.int32)
    random = RowRandomness(row_keys(config.run.seed, VALIDATION_STEP, rows), dropout=False)
    dtype = params["model_g"]["enc_p.emb.weight"].dtype
    weight, n = batch["weight"].astype(dtype), _counts(config, batch, dtype)
    o = config.optimizer

    g = generate(config, networks, params["model_g"], batch, random)
    both = jnp.concatenate([g.real, g.output.audio])
    real, generated = _split(bind(networks.discriminator, params["model_d"])(both))
    gen = losses.generator_loss(generated, weight, n)
    fm = o.c_fm * losses.feature_loss(real, generated, weight, n)
    disc = losses.discriminator_loss(real, generated, weight, n)
    own = o.c_mel * g.mel + o.c_kl * g.kl + o.c_dur * g.dur
    metrics = {
        "loss_g": own + o.c_gen * gen + fm,
        "loss_d": disc,
        "mel": g.mel,
        "kl": g.kl,
        "dur": g.dur,
        "gen": gen,
        "fm": fm,
        "disc": disc,
    }
    metrics = lax.psum(metrics, "data")
    return {name: value * n.rows for name, value in metrics.items()} | {"weight": n.rows}


def make_train_step(config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    """``step(state, batch, rates) -> state, metrics``, jitted; the old state is donated.

    ``batch`` is laid out in rows over the mesh, the rest is replicated. ``rates`` holds
    ``learning_rate`` and ``learning_rate_d``. Metrics are the batch's means: ``mel`` and
    ``kl`` unweighted, ``fm`` with its weight, as Piper logs them. Where one of them is not
    finite, only ``step`` changes in the state, and ``skipped`` is 1.
    """
    networks = abstract_networks(config)
    platform = mesh.devices.flat[0].platform

    def step(state: State, batch: Batch, rates: Rates) -> tuple[State, Metrics]:
        return train_step(config, networks, state, batch, rates, platform)

    return _over_rows(step, mesh, (P(), P("data"), P()), donate_argnums=0)


def make_eval_step(config: Config, mesh: Mesh) -> jax.stages.Wrapped:
    """``evaluate(params, batch, first_row) -> metrics``, jitted: sums, and their ``weight``.

    ``first_row`` numbers the batch's rows within the validation set, so that each
    utterance meets the same noise and segment every time.
    """
    networks = abstract_networks(config)

    def evaluate(params: dict[str, Parameters], batch: Batch, first_row: jax.Array) -> Metrics:
        return eval_step(config, networks, params, batch, first_row)

    return _over_rows(evaluate, mesh, (P(), P("data"), P()))


def _over_rows(
    function: Callable[..., Any], mesh: Mesh, specs: tuple[P, ...], **options: Any
) -> jax.stages.Wrapped:
    # check_vma would insert the gradients' sums by itself, once per tensor where it is used;
    # one explicit psum at the end is what the compiler combines best.
    sharded = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    return jit(
        sharded,
        mesh.devices.flat[0].platform,
        in_shardings=tuple(NamedSharding(mesh, spec) for spec in specs),
        out_shardings=NamedSharding(mesh, P()),
        **options,
    )
