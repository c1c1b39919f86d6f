"""`benchmark voice`: the exported voice in onnxruntime, beside Piper's export of the same.

The weights are random, and made so that the voice is neither silent nor mute: phonemes last
some frames, samples are of speech's size. What is spoken is scaled to the seconds asked for.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import onnxruntime

from vits_jax.config import Config
from vits_jax.model.networks import initial_parameters
from vits_jax.voice import graph
from vits_jax.voice.export import finished
from vits_jax.voice.streaming import HOP, MARGIN, Player, margin, time_first_audio
from vits_jax.voice.verify import feed, session, with_durations

PHONEMES = 150


def speaking_weights(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """A generator's ``{name: array}``, random, without zeros, under which something is said."""
    initial = jax.jit(functools.partial(initial_parameters, config))(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    weights = {}
    for name, value in sorted(initial["model_g"].items()):
        array = np.array(value)
        if name.endswith("weight_g"):
            array *= 1.5 * rng.uniform(0.7, 1.4, array.shape).astype(np.float32)
        elif array.ndim == 1 or not array.any():
            array += rng.normal(0.0, 0.1, array.shape).astype(np.float32)
        weights[name] = array
    if config.model.use_sdp:
        weights["dp.flows.0.m"][0] -= 1.2  # phonemes of about four frames, spread by ...
        weights["dp.flows.0.logs"][0] -= 0.3
    else:
        weights["dp.proj.bias"] += 1.2
        weights["dp.proj.weight"] *= 3  # ... their context
    weights["dec.conv_post.weight"] *= 8
    return weights


def benchmark(args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Time both voices in turns, and compare what they say without noise at three lengths."""
    weights = speaking_weights(config)
    model = finished(graph.whole(config, weights), "float32", {})
    ours = session(with_durations(model), args.threads)
    rate, hop = config.audio.sample_rate, config.audio.hop_length
    ids = np.random.default_rng(0).integers(0, config.model.num_symbols, PHONEMES)
    inputs = functools.partial(feed, ids, 0, config.model.num_speakers)
    frames = float(ours.run(["durations"], inputs((0.0, 1.0, 0.0)))[0].sum())
    length_scale = args.seconds * rate / hop / frames
    inputs_timed = inputs((0.0, length_scale, 0.0))

    theirs, peer_nodes, difference = None, None, None
    if args.peer:
        with tempfile.TemporaryDirectory() as directory:
            peer, peer_nodes = _piper(config, weights, Path(directory))
        theirs = session(peer, args.threads)
        difference = _difference(config, ours, theirs)

    seconds: list[tuple[float, float]] = []
    peer_seconds: list[tuple[float, float]] = []
    samples = 0
    for _ in range(args.runs + 1):
        (audio,) = _timed(lambda: ours.run(["output"], inputs_timed), seconds)
        samples = audio.size
        if theirs is not None:
            _timed(lambda: theirs.run(["output"], inputs_timed), peer_seconds)
    # The first run is to warm up. Other processes take wall time from either side, not CPU time.
    wall, cpu = np.median(seconds[1:], axis=0).tolist()
    peer_wall, peer_cpu = np.median(peer_seconds[1:], axis=0).tolist() if peer_seconds else (0, 0)
    speech = samples / rate

    more = {
        HOP: str(hop),
        MARGIN: str(margin(config)),
        "n_speakers": str(config.model.num_speakers),
    }
    halves = [
        session(finished(half(config, weights), "float32", more), args.threads)
        for half in (graph.encoder, graph.decoder)
    ]
    streaming = time_first_audio(Player(*halves), ours, ids, args.seconds, rate)
    return {
        "quality": args.quality,
        "speakers": config.model.num_speakers,
        "durations": "stochastic" if config.model.use_sdp else "plain",
        "speech_seconds": speech,
        "rtf": wall / speech,
        "peer_rtf": peer_wall / speech if peer_seconds else None,
        "cpu_seconds": cpu,
        "peer_cpu_seconds": peer_cpu if peer_seconds else None,
        "nodes": len(model.graph.node),
        "peer_nodes": peer_nodes,
        "file_bytes": model.ByteSize(),
        "peer_difference": difference,
        "first_audio_seconds": streaming.first,
        "first_audio_cpu_seconds": streaming.first_cpu,
        "whole_seconds": streaming.whole,
        "whole_cpu_seconds": streaming.whole_cpu,
        "streaming_difference": streaming.difference,
        "all_seconds": seconds,
        "all_peer_seconds": peer_seconds,
    }


def _piper(
    config: Config, weights: dict[str, np.ndarray], directory: Path
) -> tuple[onnx.ModelProto, int]:
    """Piper's own export of the same weights, and its number of nodes."""
    arrays: dict[str, Any] = dict(weights)
    np.savez(directory / "weights.npz", **arrays)
    request = config.to_dict() | {
        "weights": str(directory / "weights.npz"),
        "output": str(directory / "voice.onnx"),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("piper_voice.py"))],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit("the peer did not export: it needs the extra [test] (see above)")
    return onnx.load(directory / "voice.onnx"), int(done.stdout.split()[-1])


def _difference(
    config: Config, ours: onnxruntime.InferenceSession, theirs: onnxruntime.InferenceSession
) -> float:
    """``‖ours - theirs‖ / ‖theirs‖`` without noise, the worst of three lengths and speakers."""
    rng, speakers, worst = np.random.default_rng(1), config.model.num_speakers, 0.0
    for number, length in enumerate((7, 40, PHONEMES)):
        ids = rng.integers(0, config.model.num_symbols, length)
        scales = (0.0, (1.0, 0.8, 1.4)[number], 0.0)
        inputs = feed(ids, number % speakers, speakers, scales)
        got, expected = (side.run(["output"], inputs)[0] for side in (ours, theirs))
        if got.shape != expected.shape:
            raise SystemExit(f"{length} ids: {got.shape} from us, {expected.shape} from the peer")
        worst = max(worst, float(np.linalg.norm(got - expected) / np.linalg.norm(expected)))
    return worst


def _timed(run: Callable[[], Any], seconds: list[tuple[float, float]]) -> Any:
    """The result; adds its wall time and its CPU time."""
    start, start_cpu = time.perf_counter(), time.process_time()
    result = run()
    seconds.append((time.perf_counter() - start, time.process_time() - start_cpu))
    return result
