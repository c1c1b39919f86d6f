"""What a published voice lacks, fitted to the voice; then the voice, to who speaks.

Drawn at random, what is missing would tear the rest apart, and what the discriminators say, drawn
at random too, is slow: decoder and mel loss alone learn a voice in a twentieth of the time
(docs/fine-tuning.md). So before the first step:

1. The posterior encoder learns what the voice said: it draws latent variables from its prior and
   speaks them, so that pairs of both cost nothing but computing (the sleep phase of Hinton et al.
   1995, "The wake-sleep algorithm"). In the recordings, which are of somebody else, it learns to
   find what the prior of their texts expects, by the divergence that training takes too. The half
   of the stochastic duration predictor that training alone reads learns the durations that the
   other half draws.
2. Posterior encoder, flow and decoder learn to say the recordings: the losses of mel and
   divergence, on pieces of them. The divergence counts less than in training: as much of it holds
   the latent variables near a prior that is of the other speaker, and the decoder hears nothing
   of this one. The text encoder stays; let go, it lowers the divergence by saying less.

Which phoneme a frame says, the voice's own speech tells (`timings`). Texts are the dataset's,
speakers too. Where the voice is spoken, utterances are cut before: a pair is exact at its ends.
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
from vits_jax.config import OFF, Config
from vits_jax.data.batching.batches import Plan
from vits_jax.data.manifest import Dataset
from vits_jax.learning_rates import risen
from vits_jax.model.alignment import spread
from vits_jax.model.audio import dequantise, mel_from_spectrogram, mel_spectrogram, spectrogram
from vits_jax.model.layers import length_mask
from vits_jax.model.networks import GENERATOR, abstract_networks
from vits_jax.model.parameters import Parameters, bind
from vits_jax.model.parts import parts_by_tensor, rates_of
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.model.synthesizer import EncodedText, Synthesizer, expand
from vits_jax.state import OptimizerState, fresh_state
from vits_jax.training import optimizer
from vits_jax.training.learning import learning
from vits_jax.training.pieces import MARGIN, Piece, Pieces
from vits_jax.training.processes import ALONE, Processes
from vits_jax.training.timings import MOST_FRAMES, longest, timings
from vits_jax.voice.speech import Stages, make_stages

_LOGGER = logging.getLogger(__name__)

UTTERANCES = 256
"""Most that are heard, drawn at random: the voice says each of their texts."""


class Stage(NamedTuple):
    """How one of both is learnt: a rate that rises for some steps, then falls by a cosine."""

    steps: int
    rate: float
    warm_up: int
    most_norm: float  # of the gradients


FINDING = Stage(steps=150, rate=1e-3, warm_up=20, most_norm=10.0)
SAYING = Stage(steps=600, rate=6e-4, warm_up=10, most_norm=1e3)
_LAST = 0.05  # what a rate falls to
_SPEECH_FRAMES = 128  # of what the voice says
_C_DUR = 0.1
_C_KL = 0.1  # of the weight that training gives it
_QUIETEST = 0.4  # of the noise of the prior, up to 1: what is spoken should be clear, and varied
_SAYING = ("enc_q", "flow", "dec")

Losses = dict[str, jax.Array]  # each []
Loss = Callable[[Parameters, Parameters, Piece, RowRandomness], tuple[jax.Array, Losses]]


def fitted(
    config: Config,
    parameters: Mapping[str, Parameters],
    missing: Collection[str],
    dataset: Dataset,
    plan: Plan,
    device: jax.Device,
    interrupted: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
    finding: Stage = FINDING,
    saying: Stage = SAYING,
) -> dict[str, Parameters]:
    """Parameters of all networks, those of the generator that are missing fitted to the others.

    Then those others move too, but for what is frozen (``--freeze``), and for all where speakers
    are kept (``--keep-speakers``), at their ``--part-rates``. Where `interrupted` says so, with
    what was learnt until then.

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
        finding, saying: how both are learnt.
    """
    whole = {name: np.asarray(p) for name, p in parameters[GENERATOR].items()}
    whole = jax.device_put(whole, device)
    _LOGGER.info("timing the recordings by the voice's own speech")
    stages, rows = make_stages(config, device.platform), _rows(plan, config)
    timed = timings(stages, config, whole, dataset, rows, interrupted)
    if not timed and not interrupted():
        _LOGGER.warning("the voice says no text within %d frames: nothing is fitted", MOST_FRAMES)
    if timed:
        phonemes = longest(dataset, np.asarray(list(timed)))
        priors = {row: _prior(stages, whole, dataset, row, phonemes) for row in timed}
        pieces = Pieces(config, dataset, timed, priors)
        learn = functools.partial(_learnt, config, pieces, device.platform, interrupted)
        _LOGGER.info("fitting %d tensors to the voice as it is", len(missing))
        whole |= learn(
            whole, dict.fromkeys(missing, 1.0), finding, functools.partial(_finding, config)
        )
        moving = _moving(config, whole)
        if moving and not interrupted():
            _LOGGER.info("fitting the voice to the recordings: %s", ", ".join(_SAYING))
            whole |= learn(whole, moving, saying, functools.partial(_saying, config))
    if not processes.alone:
        processes.meet()  # one may have compiled for longer
        whole = multihost_utils.broadcast_one_to_all(whole)
    return {**parameters, GENERATOR: whole}


def _rows(plan: Plan, config: Config) -> np.ndarray:
    rows = np.concatenate(plan.members)
    random = np.random.default_rng(config.run.seed)
    return np.sort(random.permutation(rows)[:UTTERANCES])


def _prior(
    stages: Stages, generator: Parameters, dataset: Dataset, row: int, phonemes: int
) -> tuple[np.ndarray, np.ndarray]:
    """What the text encoder, which stays as it is, expects of each phoneme of an utterance."""
    one = np.ones(1, np.int32)
    ids, number = dataset.phoneme_ids(row), int(dataset.id_lengths[row])
    padded = np.zeros((1, phonemes), np.int32)
    padded[0, :number] = ids
    speaker, seed = dataset.speaker_ids[row] * one, np.zeros(1, np.uint32)
    scales = np.float32(1), np.float32(0)
    text = stages.encode(generator, padded, number * one, speaker, seed, *scales)
    return np.asarray(text.m_p)[0, :number], np.asarray(text.logs_p)[0, :number]


def _moving(config: Config, whole: Parameters) -> Mapping[str, float]:
    """Of the generator's, what learns to say the recordings: factors of the rate, by name."""
    if config.optimizer.keep_speakers != OFF:
        return {}
    generator, rates = (
        {GENERATOR: learning(config, {GENERATOR: whole})[GENERATOR]},
        rates_of(config),
    )
    own = parts_by_tensor(generator, rates).get(GENERATOR, {})
    says = parts_by_tensor(generator, _SAYING)[GENERATOR]
    return {name: rates[own[name]] if name in own else 1.0 for name in says}


def _learnt(
    config: Config,
    pieces: Pieces,
    platform: str,
    interrupted: Callable[[], bool],
    whole: Parameters,
    factors: Mapping[str, float],
    stage: Stage,
    loss: Loss,
) -> Parameters:
    """Those that have factors of the rate, `stage` later."""
    own = {name: p for name, p in whole.items() if name in factors}
    rest = {name: p for name, p in whole.items() if name not in own}
    moments = fresh_state({GENERATOR: own}).optimizer[GENERATOR]
    moments = jax.device_put(moments, next(iter(own.values())).sharding)
    so_learnt = functools.partial(_update, config, loss, stage.most_norm, factors)
    update = jit(so_learnt, platform, donate_argnums=2)
    for step in range(stage.steps):
        if interrupted():
            break
        rate = stage.rate * risen(step, stage.warm_up) * _fallen(step / stage.steps)
        piece = pieces(step)
        own, moments, losses = update(own, rest, moments, piece, np.int32(step), np.float32(rate))
        if step % 25 == 24 or step == stage.steps - 1:
            told = ", ".join(f"{name} {float(value):.3g}" for name, value in losses.items())
            _LOGGER.info("fitting, step %d of %d: %s", step + 1, stage.steps, told)
    return own


def _fallen(done: float) -> float:
    return _LAST + (1 - _LAST) * 0.5 * (1 + float(np.cos(np.pi * done)))


def _update(
    config: Config,
    loss: Loss,
    most_norm: float,
    factors: Mapping[str, float],
    own: Parameters,
    rest: Parameters,
    moments: OptimizerState,
    piece: Piece,
    step: jax.Array,
    rate: jax.Array,
) -> tuple[Parameters, OptimizerState, Losses]:
    o, rows = config.optimizer, jnp.arange(piece.frames.shape[0], dtype=jnp.int32)
    random = RowRandomness(row_keys(config.run.seed, step, rows), dropout=False)
    grads, losses = jax.grad(loss, has_aux=True)(own, rest, piece, random)
    norm = jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(g * g) for g in grads.values()])))
    own, moments = optimizer.update(
        own,
        optimizer.clip(grads, norm, most_norm, "norm"),
        moments,
        learning_rate=rate,
        betas=o.betas,
        eps=o.eps,
        weight_decay=o.weight_decay,
        apply=jnp.isfinite(norm),
        factors={name: jnp.float32(factor) for name, factor in factors.items()},
    )
    return own, moments, losses


def _finding(
    config: Config, own: Parameters, rest: Parameters, piece: Piece, random: RowRandomness
) -> tuple[jax.Array, Losses]:
    """Of what is missing."""
    network = bind(abstract_networks(config).generator, rest | own)
    _, kl = _posterior(config, network, piece, random)
    nll, dur, unfound = _of_own_speech(config, network, piece, random)
    numbers = config.model.inter_channels  # of a frame
    told = {"kl": kl, "nll": nll, "unfound": unfound, "dur": dur}
    return kl / numbers + nll + _C_DUR * dur, told


def _saying(
    config: Config, own: Parameters, rest: Parameters, piece: Piece, random: RowRandomness
) -> tuple[jax.Array, Losses]:
    """Of what says the recordings."""
    network = bind(abstract_networks(config).generator, rest | own)
    z, kl = _posterior(config, network, piece, random)
    inner = _inner(z)
    made = network.generate(inner, piece.speaker_ids, z.dtype)
    with jax.named_scope("mel"):
        target = mel_from_spectrogram(_spectrum(config, piece), config.audio)
        far = jnp.abs(_inner(target) - mel_spectrogram(made, config.audio))
        heard = _inner(length_mask(piece.frames, target.shape[1], far.dtype))
        mel = jnp.sum(far * heard) / (jnp.sum(heard) * far.shape[2] + 1)
    o = config.optimizer
    return o.c_mel * mel + _C_KL * o.c_kl * kl, {"mel": mel, "kl": kl}


def _spectrum(config: Config, piece: Piece) -> jax.Array:
    samples = piece.frames * config.audio.hop_length
    return spectrogram(dequantise(piece.audio), samples, config.audio)


def _inner(x: jax.Array) -> jax.Array:
    """Without the margins, from which the networks' layers reach into a piece."""
    return x[:, MARGIN : x.shape[1] - MARGIN]


def _posterior(
    config: Config, network: Synthesizer, piece: Piece, random: RowRandomness
) -> tuple[jax.Array, jax.Array]:
    """Latent variables ``[B, F, C]``, and their divergence from the prior, nats a frame, ``[]``."""
    spec, g = _spectrum(config, piece), network.speaker(piece.speaker_ids)
    z, _, logs_q, mask = network.enc_q(spec, piece.frames, g, random)
    z_p, logs_p = network.flow(z, mask, g), piece.logs_p
    kl = logs_p - logs_q - 0.5 + 0.5 * (z_p - piece.m_p) ** 2 * jnp.exp(-2 * logs_p)
    heard = _inner(mask).astype(kl.dtype)
    return z, jnp.sum(_inner(kl) * heard) / (jnp.sum(heard) + 1)


def _of_own_speech(
    config: Config, network: Synthesizer, piece: Piece, random: RowRandomness
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How well what the voice says is found: likelihood of the latent variables (nats a number,
    without the constant), of the durations (nats a phoneme), and the share of the latent
    variables' power that is not found; each ``[]``."""
    ids, lengths, speakers = piece.phoneme_ids, piece.phoneme_lengths, piece.speaker_ids
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
    starts = jnp.maximum(whole - _SPEECH_FRAMES + 1, 1).astype(text.m_p.dtype)
    start = (random.uniform("segment", starts.dtype) * starts).astype(jnp.int32)
    aligned = spread(text.durations, MOST_FRAMES, text.m_p.dtype)
    aligned = jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, _SPEECH_FRAMES))(
        aligned, start
    )
    frames = jnp.minimum(whole - start, _SPEECH_FRAMES)
    mask = length_mask(frames, _SPEECH_FRAMES, text.m_p.dtype)
    m_p, logs_p = expand(aligned, text.m_p), expand(aligned, text.logs_p)
    noise = random.normal("prior", m_p.shape[1:], m_p.dtype)
    scale = random.uniform("noise_scale", noise.dtype)[:, None, None]
    z_p = m_p + noise * jnp.exp(logs_p) * (_QUIETEST + (1 - _QUIETEST) * scale)
    z = network.flow(z_p, mask, g, reverse=True) * mask
    audio = network.dec(z, g, mask)
    return lax.stop_gradient(z), lax.stop_gradient(audio), frames
