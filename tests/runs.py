"""Runs that take seconds: a small prepared directory, a small model, and a stand-in step."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from vits_jax import config_checks
from vits_jax.checkpoints import store
from vits_jax.commands.train import configure
from vits_jax.config import Config
from vits_jax.model import discriminator, duration, flow, multi_resolution, networks, wavenet
from vits_jax.model.networks import GENERATOR, NETWORKS
from vits_jax.state import TrainState, begin_averages, fresh_state
from vits_jax.training import examples, prepared, recordings, start, validation
from vits_jax.training.evaluation import Evaluation
from vits_jax.training.events import Event
from vits_jax.training.optimizer import averaged
from vits_jax.training.step import all_finite

RATE, HOP = 8000, 16
SYMBOLS = "_^$ abcdefghijklmnopqrstuvwxyz"

# Everything of the shipped configuration, shrunk: both kinds of layers, all of the losses.
SMALL = {
    "filter_length": 64,
    "hop_length": HOP,
    "win_length": 64,
    "mel_channels": 10,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 2], [2, 6]],
    "upsample_rates": [4, 4],
    "upsample_kernel_sizes": [8, 8],
    "upsample_initial_channel": 16,
    "inter_channels": 16,
    "hidden_channels": 16,
    "filter_channels": 32,
    "n_layers": 1,
    "gin_channels": 8,
    "segment_size": 512,
    "discriminator_width": 16,
    "num_buckets": 1,
    "num_test_examples": 2,
    "validation_split": 0.2,
    "metrics_every": 0,
}


# Runs with the real step: all with the same one, on two of eight devices, so that it is compiled
# once. The plain duration predictor compiles in two thirds of the stochastic one's time.
REAL = {"use_sdp": "false", "devices": 2}
REAL_ENVIRONMENT = {"JAX_NUM_CPU_DEVICES": "8"}  # of commands, as the tests' own process has them


def write_dataset(directory: Path, utterances: int = 14, speakers: int = 2) -> Path:
    """A prepared directory of short tones, of several lengths, by several speakers."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(0)
    lines = []
    for i in range(utterances):
        letters = random.integers(4, len(SYMBOLS), size=int(random.integers(3, 6)))
        samples = int(random.integers(40, 60)) * HOP + int(random.integers(0, HOP))
        tone = 0.3 * np.sin(2 * np.pi * (200 + 20 * i) * np.arange(samples) / RATE)
        soundfile.write(directory / f"{i}.wav", tone.astype(np.float32), RATE)
        entry = {
            "text": "".join(SYMBOLS[letter] for letter in letters),
            "phoneme_ids": [1, 0, *[x for letter in letters for x in (int(letter), 0)], 2],
            "audio_norm_path": f"{i}.wav",
            "speaker_id": i % speakers,
        }
        lines.append(json.dumps(entry) + "\n")
    (directory / "dataset.jsonl").write_text("".join(lines))
    voice = {
        "audio": {"sample_rate": RATE},
        "num_symbols": len(SYMBOLS),
        "num_speakers": speakers,
        "speaker_id_map": {f"speaker {i}": i for i in range(speakers)},
        "phoneme_type": "text",
        "phoneme_id_map": {symbol: [i] for i, symbol in enumerate(SYMBOLS)},
    }
    (directory / "config.json").write_text(json.dumps(voice))
    return directory


def write_uneven(directory: Path, sizes: list[int], names: list[str] | None = None) -> Path:
    """The same, with so many utterances of each speaker, in turns while there are some."""
    write_dataset(directory, sum(sizes), len(sizes))
    turns = [i for turn in range(max(sizes)) for i, size in enumerate(sizes) if turn < size]
    path = directory / "dataset.jsonl"
    entries = map(json.loads, path.read_text().splitlines())
    lines = [json.dumps(e | {"speaker_id": i}) for e, i in zip(entries, turns, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    if names is not None:
        voice = json.loads((directory / "config.json").read_text())
        voice["speaker_id_map"] = {name: i for i, name in enumerate(names)}
        (directory / "config.json").write_text(json.dumps(voice))
    return directory


def flags(dataset: Path, run_dir: Path | str, **more: Any) -> list[str]:
    """Flags of a small run; keyword arguments are flags that win over it, None for not given."""
    config = dataset.parent / "small.yaml"
    config.write_text(json.dumps(SMALL))  # JSON is YAML
    given = {"dataset_dir": dataset, "config": config, "run_dir": run_dir, "batch_size": 4}
    # Epochs of milliseconds: each saves and validates all the same.
    given |= {"devices": 1, "checkpoint_minutes": 0, "check_val_every_n_epoch": 1} | more
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def small(dataset: Path, run_dir: Path | str, **more: Any) -> Config:
    """The configuration of those flags."""
    return configure(flags(dataset, run_dir, **more))


def leaves(run_dir: Path) -> dict[str, np.ndarray]:
    """Every array of a run's newest checkpoint, by path."""
    step_dir = store.resolve(run_dir)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    config = store.read_metadata(step_dir).config
    state = store.restore(step_dir, start.abstract_state(config, sharding).to_dict())
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(state)}


def read_events(run_dir: Path) -> list[Event]:
    """What a run wrote for TensorBoard, oldest file first."""
    events = []
    for path in sorted(run_dir.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):  # a length (8 bytes), its checksum (4), the event, its checksum (4)
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
    return events


@contextlib.contextmanager
def no_room(most_bytes: int) -> Iterator[None]:
    """Inside, no file can grow beyond so many bytes: the write fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """The same arrays, bit for bit."""
    assert a.keys() == b.keys()
    different = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    assert different == []


@contextlib.contextmanager
def few_layers(layers: int, flows: int) -> Iterator[None]:
    """Around what uses networks with fewer layers than Piper has everywhere: WN's, and flows."""
    make = wavenet.WN.__init__

    def fewer(self: Any, hidden: int, k: int, n_layers: int, gin: int, **more: Any) -> None:
        make(self, hidden, k, layers, gin, **more)

    caches = (networks.structure, networks._folded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "N_FLOWS", flows)
        patch.setattr(duration, "N_FLOWS", flows)
        patch.setattr(discriminator, "PERIODS", (2, 3))
        patch.setattr(wavenet.WN, "__init__", fewer)
        for cache in caches:
            cache.cache_clear()
        yield
        for cache in caches:
            cache.cache_clear()


COARSE = ((32, 16, 20), (16, 8, 12), (8, 4, 7))


@contextlib.contextmanager
def coarse_spectra() -> Iterator[None]:
    """Around what uses discriminators of spectra at resolutions that segments of tests are long
    enough for, and of few numbers: XLA:CPU convolves float64 slowly in 2-D."""
    caches = (networks.structure, networks._folded)
    with pytest.MonkeyPatch.context() as patch:
        for module in (multi_resolution, config_checks):
            patch.setattr(module, "MRD_RESOLUTIONS", COARSE)
        for cache in caches:
            cache.cache_clear()
        yield
        for cache in caches:
            cache.cache_clear()


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Put a step that compiles at once in place of the real one, which does not.

    It touches all that the loop hands it, so that a lost, repeated or changed batch, rate
    or step shows in the state; a learning rate above 1 makes the loss infinite, and the
    update is skipped. Returns the list of batch shapes that training and validation trace.
    """
    traced: list[tuple[int, ...]] = []

    def create_state(config: Config, key: jax.Array) -> TrainState:
        return fresh_state({name: {"x": jax.random.normal(key, (3,))} for name in NETWORKS})

    def losses(total: jax.Array) -> dict[str, jax.Array]:
        names = ("loss_g", "loss_d", "mel", "kl", "dur", "fm", "gen", "disc")
        return dict.fromkeys(names, total)

    def make_train_step(config: Config, mesh: Any) -> Callable[..., Any]:
        def step(state: Any, batch: Any, rates: Any) -> Any:
            traced.append(batch["audio"].shape)
            total = jnp.mean(batch["audio"].astype(jnp.float32) * batch["weight"][:, None])
            total = total + jnp.sum(batch["phoneme_ids"] * batch["speaker_ids"][:, None]) / 1000
            change = total * rates["learning_rate"] + rates["learning_rate_d"]
            broken = jnp.where(rates["learning_rate"] > 1, jnp.inf, 0.0)
            metrics = losses(total + broken) | {"grad_norm_g": total, "grad_norm_d": total}
            finite = all_finite(metrics)
            change = jnp.where(finite, change, 0.0)
            step = state.step + 1
            moved = state.replace(averages={})
            moved = jax.tree.map(lambda x: x + change.astype(x.dtype), moved).replace(step=step)
            if decay := config.optimizer.ema_decay:
                new = moved.params[GENERATOR]
                own = averaged(state.averages[GENERATOR], new, decay, apply=finite)
                moved = moved.replace(averages={GENERATOR: own})
            return moved, metrics | {"skipped": jnp.where(finite, 0.0, 1.0)}

        return jax.jit(step, donate_argnums=0)

    def make_eval_step(config: Config, mesh: Any) -> Callable[..., Any]:
        def evaluate(params: Any, batch: Any, first_row: jax.Array) -> Any:
            traced.append(batch["audio"].shape)
            weight = jnp.sum(batch["weight"])
            x = jnp.ravel(jax.tree.leaves(params[GENERATOR])[0])[0]
            return losses(weight * x * x) | {"weight": weight}

        return jax.jit(evaluate)

    set_initial_state(monkeypatch, create_state)
    monkeypatch.setattr(prepared, "make_train_step", make_train_step)
    monkeypatch.setattr(validation, "make_eval_step", make_eval_step)
    # Nobody speaks, so the real networks need not be built: that takes most of a start.
    nobody = jax.jit(lambda *arguments: arguments)
    stages = examples.speech.Stages(nobody, nobody, nobody)
    monkeypatch.setattr(examples.speech, "make_stages", lambda *arguments: stages)
    monkeypatch.setattr(recordings, "make_reconstruct", lambda *arguments: nobody)
    for evaluator in (examples.SpokenExamples, recordings.Recordings):
        monkeypatch.setattr(evaluator, "ahead", lambda *arguments: None)
        monkeypatch.setattr(evaluator, "__call__", lambda *arguments: Evaluation())
    return traced


def set_initial_state(
    monkeypatch: pytest.MonkeyPatch, create_state: Callable[[Config, jax.Array], TrainState]
) -> None:
    """Runs begin with another state, and their checkpoints are expected to hold such a one."""

    def abstract_state(config: Config, sharding: jax.sharding.Sharding) -> TrainState:
        shapes = jax.eval_shape(lambda key: create_state(config, key), jax.random.key(0))
        if config.optimizer.ema_decay:
            shapes = jax.eval_shape(begin_averages, shapes)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
        )

    def of_the_host(config: Config, key: jax.Array) -> TrainState:
        return cast(TrainState, jax.device_get(create_state(config, key)))  # as the real one does

    monkeypatch.setattr(start, "create_state", of_the_host)
    monkeypatch.setattr(start, "abstract_state", abstract_state)
