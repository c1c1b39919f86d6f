"""The parts of a training step alone, forward and gradients, on the clock (``benchmark parts``)."""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from vits_jax.benchmarks.floor import Cost, floor
from vits_jax.chips import chip_of
from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.model.alignment import durations
from vits_jax.model.audio import dequantise, mel_spectrogram, spectrogram
from vits_jax.model.forms import forms_for
from vits_jax.model.layers import length_mask
from vits_jax.model.networks import GENERATOR, folded_networks, judges_of
from vits_jax.model.parameters import bind
from vits_jax.model.precision import POLICIES, Precision, chosen
from vits_jax.model.randomness import RowRandomness, row_keys
from vits_jax.model.weight_norm import fold
from vits_jax.state import TrainState, create_state
from vits_jax.training import optimizer
from vits_jax.training.gradients import joined, parted, summed

Part = tuple[str, Callable[..., Any], tuple[Any, ...], tuple[int, ...]]
"""A name, a function, its arguments, and those that gradients are taken to (none: no gradients)."""


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Time each part; beside it the least that its products could take on this chip."""
    device = jax.devices()[0]
    chip = chip_of(device)
    name = chosen(args.precision, device.platform)
    precision = POLICIES[name]
    result = {}
    for part, function, arguments, wrt in _parts(config, args, precision):
        timed = _with_gradients(function, wrt, precision, device)
        traced = jit(timed, device.platform).trace(*arguments)
        program = traced.lower().compile()
        seconds = []
        for _ in range(args.steps + 1):
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds.append(time.perf_counter() - start)
        cost = functools.reduce(_sum, floor(traced.jaxpr).values(), Cost())
        if part.startswith("optimizer"):
            cost.bytes += 7 * sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[0]))
        least = cost.seconds(chip) if chip else None
        median = statistics.median(seconds[1:])
        result[part] = {
            "milliseconds": 1e3 * median,
            "floor_milliseconds": 1e3 * least if least is not None else None,
            "ratio": median / least if least else None,
            "gflop": cost.flops / 1e9,
            "tflops": cost.flops / median / 1e12,
        }
    return {
        "device": device.device_kind,
        "quality": args.quality,
        "precision": name,
        "batch_size": args.batch_size,
        "phonemes": args.phonemes,
        "frames": args.frames,
        "parts": result,
    }


def _sum(a: Cost, b: Cost) -> Cost:
    return Cost(a.flops + b.flops, a.bytes + b.bytes, a.products + b.products)


def _with_gradients(
    function: Callable[..., Any], wrt: tuple[int, ...], precision: Precision, device: jax.Device
) -> Callable[..., Any]:
    """Of the sum of squares of all that comes out, or the function itself."""

    def loss(*arguments: Any) -> jax.Array:
        leaves = jax.tree.leaves(function(*arguments))
        return jnp.sum(jnp.stack([jnp.mean(x.astype(jnp.float32) ** 2) for x in leaves]))

    def run(*arguments: Any) -> Any:
        with precision.products(), forms_for(device):
            return jax.grad(loss, wrt)(*arguments) if wrt else function(*arguments)

    return run


def _parts(config: Config, args: argparse.Namespace, precision: Precision) -> Iterator[Part]:
    """As the step meets them: full-length rows of random numbers."""
    networks = folded_networks(config)
    state = jax.jit(functools.partial(create_state, config))(jax.random.key(0))
    G, D = state.params[GENERATOR], judges_of(state.params)
    B, T, F = args.batch_size, args.phonemes, args.frames
    model, hop = config.model, config.audio.hop_length
    keys = iter(jax.random.split(jax.random.key(1), 16))
    compute, hidden = jnp.dtype(precision.compute), model.hidden_channels

    def noise(*shape: int, dtype: DTypeLike = compute) -> jax.Array:
        return jax.random.normal(next(keys), shape).astype(dtype)

    def random() -> RowRandomness:
        return RowRandomness(row_keys(0, 0, jnp.arange(B, dtype=jnp.int32)), dropout=True)

    def generator(params: Any) -> Any:
        return bind(networks.generator, fold(params, compute))

    def judges(params: Any) -> Any:
        return bind(networks.discriminator, fold(params, compute))

    phonemes, frames = (jnp.full(B, n, jnp.int32) for n in (T, F))
    g = noise(B, 1, model.gin_channels) if model.num_speakers > 1 else None
    mask, x_mask = length_mask(frames, F, compute), length_mask(phonemes, T, compute)
    audio = (3000 * noise(B, F * hop, dtype=jnp.float32)).astype(jnp.int16)

    def spectra(audio: jax.Array) -> jax.Array:
        return spectrogram(dequantise(audio), frames * hop, config.audio)

    ids = jax.random.randint(next(keys), (B, T), 0, model.num_symbols, jnp.int32)
    segment = noise(B, model.segment_size, dtype=jnp.float32)
    yield "spectrogram", spectra, (audio,), ()
    yield "mel", lambda x: mel_spectrogram(x, config.audio), (segment,), (0,)
    yield (
        "text_encoder",
        lambda p: generator(p).enc_p(ids, phonemes, random(), compute)[:3],
        (G,),
        (0,),
    )
    spec = noise(B, F, config.audio.spec_channels)
    yield (
        "posterior_encoder",
        lambda p, x: generator(p).enc_q(x, frames, g, random())[:3],
        (G, spec),
        (0,),
    )
    z = noise(B, F, model.inter_channels)
    yield "flow", lambda p, x: generator(p).flow(x, mask, g), (G, z), (0, 1)
    scores = noise(B, F, T, dtype=jnp.float32)
    yield "alignment", lambda s: durations(s, phonemes, frames), (scores,), ()
    w = jnp.full((B, T, 1), F / T, jnp.float32)
    yield (
        "durations",
        lambda p, x: generator(p).dp.negative_log_likelihood(x, x_mask, g, w, random()),
        (G, noise(B, T, hidden)),
        (0,),
    )
    cut = noise(B, config.segment_frames, model.inter_channels)
    yield "decoder", lambda p, x: generator(p).dec(x, g), (G, cut), (0, 1)
    both = noise(2 * B, model.segment_size)
    for i in range(len(networks.discriminator.every())):
        yield (
            f"discriminator_{i}",
            lambda p, x, i=i: judges(p).every()[i](x),
            (D, both),
            (0, 1),
        )
    yield "optimizer", functools.partial(_update, config), (state.params, state), ()


def _reduced(gradients: Any, platform: str) -> Any:
    (pieces,), norm = summed([joined(gradients, platform)], "data")
    return parted(pieces, gradients, platform), norm


def _update(config: Config, gradients: Any, state: TrainState) -> Any:
    """AdamW of both networks, with the norms; the parameters stand for their gradients."""
    o, platform = config.optimizer, jax.default_backend()
    updated = {}
    for network in state.params:
        betas = o.betas if network == GENERATOR else o.betas_d
        mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
        reduce: Callable[..., Any] = functools.partial(_reduced, platform=platform)
        reduce = jax.shard_map(reduce, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
        grads, norm = reduce(gradients[network])
        updated[network] = optimizer.update(
            state.params[network],
            grads,
            state.optimizer[network],
            learning_rate=jnp.float32(o.learning_rate),
            betas=betas,
            eps=o.eps,
            weight_decay=o.weight_decay,
            apply=jnp.isfinite(norm),
        )
    return updated
