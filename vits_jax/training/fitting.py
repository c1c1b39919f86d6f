"""What a published voice lacks, fitted to the voice as it is.

A voice without its posterior encoder still says what that would have to find: it draws latent
variables from its prior and speaks them, so that pairs of both cost nothing but computing (the
sleep phase of Hinton et al. 1995, "The wake-sleep algorithm"). The encoder learns to find the
latent variables in the spectrograms, by their likelihood. Recordings are of another voice: in
those it learns to find what the prior of their texts expects, by the divergence that training
takes too. The decoder, which cannot say them yet, has no say in it (docs/fine-tuning.md).

The half of the stochastic duration predictor that training alone reads learns the durations that
the other half draws.

Texts are the dataset's, speakers too. Utterances are cut before they are spoken: a pair is exact at
its ends as well.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.data.batching.batches import Plan, load_batch
from vits_jax.data.batching.buckets import Bucket
from vits_jax.data.manifest import Dataset
from vits_jax.learning_rates import risen
from vits_jax.model.alignment import spread
from vits_jax.model.audio import dequantise, spectrogram
from vits_jax.model.layers import length_mask
from vits_jax.model.networks import GENERATOR, abstract_networks
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.model.synthesizer import EncodedText, Synthesizer, expand
from vits_jax.state import OptimizerState, fresh_state
from vits_jax.training import optimizer
from vits_jax.training.losses import Rows, kl_loss
from vits_jax.training.objective import Batch
from vits_jax.training.processes import ALONE, Processes

_LOGGER = logging.getLogger(__name__)

STEPS = 150
FRAMES = 128  # of a piece
MOST_FRAMES = 2048  # of an utterance; pieces are of what comes before
_RATE, _WARM_UP, _LAST = 1e-3, 20, 0.05  # the rate, in so many steps; then a cosine to a share
_MOST_NORM = 10.0  # of the gradients
_C_DUR = 0.1
_QUIETEST = 0.4  # of the noise of the prior, up to 1: what is spoken should be clear, and varied


class Fit(NamedTuple):
    """How well, each ``[]``."""

    kl: jax.Array  # of recordings, nats a frame, as training takes it
    nll: jax.Array  # of what is spoken, nats a number of the latent variable, without the constant
    dur: jax.Array  # nats a phoneme
    unfound: jax.Array  # share of the latent variable's power


def fitted(
    config: Config,
    parameters: Mapping[str, Parameters],
    missing: Collection[str],
    dataset: Dataset,
    plan: Plan,
    device: jax.Device,
    interrupted: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
    steps: int = STEPS,
) -> dict[str, Parameters]:
    """Parameters of all networks, those of the generator that are missing fitted to the others.

    Where `interrupted` says so, with what was learnt until then.

    Args:
        config: of the run.
        parameters: ``{network: {name: array}}``.
        missing: names of the generator's, of those that speaking never reads
            (`checkpoints.source.UNHEARD`).
        dataset: of recordings and texts.
        plan: of the run's batches.
        device: to compute on.
        interrupted: whether to stop.
        processes: of the run; all get what the first one found, whose rounding may be its own.
        steps: updates.
    """
    whole = {name: np.asarray(p) for name, p in parameters[GENERATOR].items()}
    whole = jax.device_put(whole, device)
    own = {name: p for name, p in whole.items() if name in missing}
    rest = {name: p for name, p in whole.items() if name not in own}
    moments = jax.device_put(fresh_state({GENERATOR: own}).optimizer[GENERATOR], device)
    update = jit(functools.partial(_update, config), device.platform, donate_argnums=(0, 2))
    bucket, rows = _of_middle_length(plan)
    _LOGGER.info("fitting %d tensors to the voice as it is, in %d steps", len(own), steps)
    for step in range(steps):
        if interrupted():
            break
        chosen = np.random.default_rng((config.run.seed, step)).choice(rows, _rows(config))
        ones = np.ones(len(chosen), np.float32)
        batch = load_batch(dataset, bucket, chosen, ones, config.audio.hop_length)
        rate = np.float32(_RATE * risen(step, _WARM_UP) * _fallen(step / steps))
        own, moments, fit = update(own, rest, moments, batch, np.int32(step), rate)
        if step % 25 == 24 or step == steps - 1:
            kl, nll, dur, unfound = map(float, fit)
            _LOGGER.info(
                "fitting, step %d: kl %.1f of recordings; of the voice's own speech %.0f %% "
                "of the latent variable's power not found, nll %.3f, dur %.3f",
                *(step + 1, kl, 100 * unfound, nll, dur),
            )
    if not processes.alone:
        processes.meet()  # one may have compiled for longer
        own = multihost_utils.broadcast_one_to_all(own)
    return {**parameters, GENERATOR: {**parameters[GENERATOR], **own}}


def _of_middle_length(plan: Plan) -> tuple[Bucket, np.ndarray]:
    """A shape that holds half of the utterances or more, and those: long ones cost, no more."""
    held = np.cumsum([len(rows) for rows in plan.members])  # up to each shape
    first = int(np.searchsorted(held, held[-1] / 2))
    return plan.buckets[first], np.concatenate(plan.members[: first + 1])


def _fallen(done: float) -> float:
    return _LAST + (1 - _LAST) * 0.5 * (1 + float(np.cos(np.pi * done)))


def _rows(config: Config) -> int:
    return min(config.data.batch_size or 16, 16)


def _update(
    config: Config,
    own: Parameters,
    rest: Parameters,
    moments: OptimizerState,
    batch: Batch,
    step: jax.Array,
    rate: jax.Array,
) -> tuple[Parameters, OptimizerState, Fit]:
    o = config.optimizer
    rows = jnp.arange(batch["weight"].shape[0], dtype=jnp.int32)
    random = RowRandomness(row_keys(config.run.seed, step, rows), dropout=False)
    of_own = functools.partial(_loss, config, rest=rest, batch=batch, random=random)
    grads, fit = jax.grad(of_own, has_aux=True)(own)
    norm = jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(g * g) for g in grads.values()])))
    own, moments = optimizer.update(
        own,
        optimizer.clip(grads, norm, _MOST_NORM, "norm"),
        moments,
        learning_rate=rate,
        betas=o.betas,
        eps=o.eps,
        weight_decay=o.weight_decay,
        apply=jnp.isfinite(norm),
    )
    return own, moments, fit


def _loss(
    config: Config, own: Parameters, rest: Parameters, batch: Batch, random: RowRandomness
) -> tuple[jax.Array, Fit]:
    network = bind(abstract_networks(config).generator, rest | own)
    kl = _divergence(config, network, batch, random)
    nll, dur, unfound = _of_own_speech(config, network, batch, random)
    numbers = config.model.inter_channels  # of a frame
    return kl / numbers + nll + _C_DUR * dur, Fit(kl, nll, dur, unfound)


def _divergence(
    config: Config, network: Synthesizer, batch: Batch, random: RowRandomness
) -> jax.Array:
    """Of the posterior of recordings from the prior of their texts, nats a frame, ``[]``."""
    audio, lengths = dequantise(batch["audio"]), batch["audio_lengths"]
    frames, speakers = lengths // config.audio.hop_length, batch["speaker_ids"]
    spec = spectrogram(audio, lengths, config.audio)
    posterior = network.posterior(spec, frames, speakers, random)
    text = batch["phoneme_ids"], batch["phoneme_lengths"]
    alignment = network.align(*text, speakers, frames, posterior, random, spec.dtype)
    ones, total = batch["weight"], jnp.sum(frames).astype(spec.dtype)
    return kl_loss(alignment, posterior, Rows(ones, jnp.sum(ones), total, total))


def _of_own_speech(
    config: Config, network: Synthesizer, batch: Batch, random: RowRandomness
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `Fit` tells of what the voice says, each ``[]``."""
    ids, lengths, speakers = (
        batch[name] for name in ("phoneme_ids", "phoneme_lengths", "speaker_ids")
    )
    text = jax.tree.map(lax.stop_gradient, network.encode(ids, lengths, speakers, random))
    z, audio, frames = _spoken(network, text, speakers, random)
    spec = spectrogram(audio, frames * config.audio.hop_length, config.audio)
    g = network.speaker(speakers)
    _, m, logs, mask = network.enc_q(spec, frames, g, random)
    error, numbers = (z - m) * mask, jnp.sum(mask) * z.shape[2]
    nll = jnp.sum((logs + 0.5 * jnp.square(error * jnp.exp(-logs))) * mask) / numbers
    unfound = jnp.sum(jnp.square(error)) / jnp.sum(jnp.square(z * mask))
    x, *_ = network.enc_p(ids, lengths, random)
    durations = network.duration_nll(x, lengths, speakers, text.durations, random)
    return nll, jnp.sum(durations) / jnp.sum(lengths).astype(durations.dtype), unfound


def _spoken(
    network: Synthesizer, text: EncodedText, speakers: jax.Array, random: RowRandomness
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A piece of each row: ``z [B, F, C]``, its audio ``[B, F * hop]``, and frames ``[B]``."""
    g = network.speaker(speakers)
    whole = jnp.clip(jnp.sum(text.durations, axis=1), 1, MOST_FRAMES)
    starts = jnp.maximum(whole - FRAMES + 1, 1).astype(text.m_p.dtype)
    start = (random.uniform("segment", starts.dtype) * starts).astype(jnp.int32)
    aligned = spread(text.durations, MOST_FRAMES, text.m_p.dtype)
    aligned = jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, FRAMES))(aligned, start)
    frames = jnp.minimum(whole - start, FRAMES)
    mask = length_mask(frames, FRAMES, text.m_p.dtype)
    m_p, logs_p = expand(aligned, text.m_p), expand(aligned, text.logs_p)
    noise = random.normal("prior", m_p.shape[1:], m_p.dtype)
    scale = random.uniform("noise_scale", noise.dtype)[:, None, None]
    z_p = m_p + noise * jnp.exp(logs_p) * (_QUIETEST + (1 - _QUIETEST) * scale)
    z = network.flow(z_p, mask, g, reverse=True) * mask
    audio = network.dec(z, g, mask)
    return lax.stop_gradient(z), lax.stop_gradient(audio), frames
