"""What a Piper ``.ckpt`` means: its tensors, moments, learning rates and position, both ways.

Names are Piper's on both sides, so each tensor has one rule: ``model_g.NAME`` is
``params["model_g"]["NAME"]``, and its moments are the optimizer's entry of the same number
in the order of ``parameters()``. Lightning counts a step for each of the two optimizers.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vits_jax.checkpoints.piper import ckpt_file as torch_files
from vits_jax.checkpoints.sizes import infer_sizes
from vits_jax.checkpoints.store import Metadata
from vits_jax.config import Config, OptimizerConfig
from vits_jax.config_checks import check
from vits_jax.data.voice_config import VoiceConfig
from vits_jax.errors import UserError
from vits_jax.model.networks import (
    DISCRIMINATOR,
    GENERATOR,
    MULTI_RESOLUTION,
    NETWORKS,
    multi_resolution_shapes,
    parameter_shapes,
)
from vits_jax.state import Position

# The networks of each optimizer, in the order of its parameters.
_OPTIMIZED = ((GENERATOR,), (DISCRIMINATOR, MULTI_RESOLUTION))

# The file may hold anything anywhere: what was not foreseen ends in one of these.
_ODD = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError),
    *(RecursionError, RuntimeError, TypeError, ValueError),
)

AVERAGES, DECAY = "ema_state_dict", "ema_decay"
"""What averages are called in a ``.ckpt``: entries of ours, of which Lightning knows nothing."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class PiperCheckpoint:
    """A ``.ckpt``, checked: every tensor that the networks have, in their shapes.

    Attributes:
        params: ``{"model_g": {name: float32 array}, "model_d": ...}``; ``model_d`` is
            missing where the file has the generator alone. ``model_mrd`` is there where the file
            has one of the shapes that Piper's has.
        optimizer: ``{network: {"count", "mu", "nu"}}``; empty where the file has none.
        step: batches trained.
        metadata: configuration and position.
        left: tensors of another ``model_mrd``, by their names in the file.
        averages: of the generator, like `params`; empty where the file has none.
    """

    params: dict[str, Arrays]
    optimizer: dict[str, dict[str, Any]]
    step: int
    metadata: Metadata
    left: list[str]
    averages: dict[str, Arrays]


def read(path: Path, voice: VoiceConfig | None = None) -> PiperCheckpoint:
    """Read and check one of Piper's checkpoints, of the old trainer or the new.

    Args:
        path: the ``.ckpt``.
        voice: the dataset's ``config.json``: phoneme and speaker maps, which a ``.ckpt``
            does not hold, and the sample rate where that is missing too.

    Raises:
        UserError: one line that lists all that is wrong.
    """
    values = torch_files.read_ckpt(path)
    try:
        return _read(values, path, voice)
    except UserError as error:  # names and values of the file may hold line breaks
        raise UserError(_one_line(error)) from None
    except _ODD as error:
        raise UserError(f"{path}: not one of Piper's checkpoints: {_one_line(error)}") from None


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _read(values: Mapping[str, Any], path: Path, voice: VoiceConfig | None) -> PiperCheckpoint:
    given = _hyperparameters(values, path)
    params, left = _tensors(values["state_dict"], path)
    shapes = {network: {n: a.shape for n, a in params[network].items()} for network in params}
    given = {**given, "use_mrd": MULTI_RESOLUTION in params}
    if voice is not None:
        given = {"sample_rate": voice.sample_rate, **given}
    elif "sample_rate" not in given:
        raise UserError(f"{path}: it does not say its sample rate: add --voice-config config.json")
    config = infer_sizes(shapes[GENERATOR], shapes.get(DISCRIMINATOR, {}), given, str(path))
    expected = parameter_shapes(config)
    _compare(shapes, expected, config, voice, path)
    params = {network: {n: params[network][n] for n in expected[network]} for network in params}
    averages = _averages(values, expected, path)
    optimizer, settings = _optimizers(values, params, left, path)
    step, epoch = _position(values, path)
    rates = _optimizer_config(values, given, settings, path)
    metadata = Metadata(
        Config(audio=config.audio, model=config.model, optimizer=rates),
        Position(step, epoch),
        _dataset(config, voice),
        {},
        decay_from=epoch,
    )
    return PiperCheckpoint(params, optimizer, step, metadata, left, averages)


def _hyperparameters(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    given = values.get("hyper_parameters", {})
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: hyper_parameters: got {type(given).__name__}, expected a dict")
    return {str(name): _value(value) for name, value in given.items()}


def _value(value: Any) -> Any:
    """Numpy's numbers as Python's, and lists written as text (``"(8, 8, 4)"``) as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if value == "None":
        return None
    if isinstance(value, str) and value[:1] in ("(", "["):
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return value
    return value


def _tensors(state_dict: Mapping[str, Any], path: Path) -> tuple[dict[str, Arrays], list[str]]:
    """Arrays by network and name, and the tensors of a ``model_mrd`` that is another one."""
    params: dict[str, Arrays] = {GENERATOR: {}}
    left, wrong = [], []
    shapes = {
        str(name).removeprefix(f"{MULTI_RESOLUTION}."): tuple(getattr(tensor, "shape", ()))
        for name, tensor in state_dict.items()
        if str(name).startswith(f"{MULTI_RESOLUTION}.")
    }
    known = (*NETWORKS, MULTI_RESOLUTION) if shapes == multi_resolution_shapes() else NETWORKS
    for name, tensor in state_dict.items():
        network, _, rest = str(name).partition(".")
        if network == MULTI_RESOLUTION and network not in known:
            left.append(str(name))
            continue
        array = torch_files.to_numpy(tensor)
        if network not in known or not rest:
            wrong.append(f"{name}: not a tensor of Piper's networks")
        elif array is None or not np.issubdtype(array.dtype, np.floating):
            got = type(tensor).__name__ if array is None else array.dtype
            wrong.append(f"{name}: got {got}, expected floating-point numbers")
        else:
            params.setdefault(network, {})[rest] = array.astype(np.float32, copy=False)
    if not params[GENERATOR]:
        raise UserError(f"{path}: not a Piper checkpoint: no tensor of it begins with model_g.")
    _raise(wrong, path)
    return params, left


def _has_averages(values: Mapping[str, Any]) -> bool:
    return DECAY in values and isinstance(values.get(AVERAGES), Mapping)


def _averages(
    values: Mapping[str, Any], expected: Mapping[str, Mapping[str, tuple[int, ...]]], path: Path
) -> dict[str, Arrays]:
    """Those that an export of ours wrote; other programs may call other things so."""
    if not _has_averages(values):
        return {}
    found, _ = _tensors(values[AVERAGES], path)
    got = {name: array.shape for name, array in found[GENERATOR].items()}
    if got != expected[GENERATOR]:
        odd = sorted({name for name, _ in got.items() ^ expected[GENERATOR].items()})
        _raise([f"{AVERAGES}: {name}: not that of the weights" for name in odd], path)
    return {GENERATOR: {name: found[GENERATOR][name] for name in expected[GENERATOR]}}


def _compare(
    got: Mapping[str, Mapping[str, tuple[int, ...]]],
    expected: Mapping[str, Mapping[str, tuple[int, ...]]],
    config: Config,
    voice: VoiceConfig | None,
    path: Path,
) -> None:
    wrong = []
    for network in got:
        here, there = got[network], expected[network]
        wrong += [f"{network}.{n}: missing, expected {there[n]}" for n in there if n not in here]
        wrong += [f"{network}.{n}: got {here[n]}, expected none" for n in here if n not in there]
        wrong += [
            f"{network}.{n}: got {here[n]}, expected {there[n]}"
            for n in here
            if n in there and here[n] != there[n]
        ]
    if voice is not None:
        sizes = {**vars(config.model), "sample_rate": config.audio.sample_rate}
        for name in ("num_symbols", "num_speakers", "sample_rate"):
            told = getattr(voice, name)
            if told != sizes[name]:
                wrong.append(f"{name}: {voice.path} says {told}, the checkpoint {sizes[name]}")
    _raise(wrong, path)


def _raise(wrong: Sequence[str], path: Path) -> None:
    if wrong:
        raise UserError(f"{path}: {len(wrong)} things are wrong: {'; '.join(wrong)}")


def _dataset(config: Config, voice: VoiceConfig | None) -> Mapping[str, Any]:
    """The dataset's ``config.json``, or as much of it as a checkpoint knows."""
    if voice is not None:
        return voice.raw
    model = config.model
    return {
        "audio": {"sample_rate": config.audio.sample_rate},
        "num_symbols": model.num_symbols,
        "num_speakers": model.num_speakers,
    }


# Optimizers and position


def _optimizers(
    values: Mapping[str, Any], params: Mapping[str, Arrays], left: Sequence[str], path: Path
) -> tuple[dict[str, dict[str, Any]], list[Mapping[str, Any]]]:
    """Moments of each network by name, and each optimizer's ``param_groups[0]``."""
    states = values.get("optimizer_states") or []
    if not states or DISCRIMINATOR not in params:
        return {}, []
    found, groups, wrong = {}, [], []
    try:
        if len(states) != len(NETWORKS):
            raise ValueError(f"got {len(states)} optimizers, expected 2")
        for networks, saved in zip(_OPTIMIZED, states):
            (group,) = saved["param_groups"]
            groups.append(group)
            own = [network for network in networks if network in params]
            names = [(network, name) for network in own for name in params[network]]
            more = left if DISCRIMINATOR in own else []  # which come after the others'
            if len(group["params"]) != len(names) + len(more):
                wrong.append(
                    f"optimizer of {own[0]}: got {len(group['params'])} parameters, "
                    f"expected {len(names) + len(more)}"
                )
                continue
            numbers = dict(zip(names, group["params"]))
            for network in own:
                entries = {n: saved["state"].get(numbers[network, n]) for n in params[network]}
                found[network] = _moments(network, entries, params[network], wrong)
    except _ODD as error:
        wrong.append(f"optimizer_states: not those of two AdamW optimizers ({error!s})")
    _raise(wrong, path)
    return found, groups


def _moments(
    network: str, saved: Mapping[str, Any], params: Arrays, wrong: list[str]
) -> dict[str, Any]:
    moments: dict[str, Any] = {"mu": {}, "nu": {}}
    counts = {0}
    for name, array in params.items():
        entry = saved[name]
        for ours, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
            if entry is None:  # a parameter that no gradient has reached yet
                moments[ours][name] = np.zeros_like(array)
                continue
            moment = torch_files.to_numpy(entry[theirs])
            if moment is None or moment.shape != array.shape:
                got = "no tensor" if moment is None else moment.shape
                wrong.append(f"{network}.{name} {theirs}: got {got}, expected {array.shape}")
                continue
            moments[ours][name] = moment.astype(np.float32, copy=False)
        if entry is not None:
            counts.add(_whole(entry["step"]))
    if len(counts) > 2:
        wrong.append(f"optimizer of {network}: its tensors are at different steps")
    return moments | {"count": max(counts)}


def _optimizer_config(
    values: Mapping[str, Any],
    given: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    path: Path,
) -> OptimizerConfig:
    """Current rates, betas and weights of the losses: what the optimizers say, else
    hyperparameters."""
    wanted = ("lr_decay", "lr_decay_d", "c_mel", "c_kl", "learning_rate", "learning_rate_d")
    found = {n: given[n] for n in (*wanted, "betas", "betas_d", "eps") if given.get(n) is not None}
    try:
        if _has_averages(values):
            found["ema_decay"] = float(values[DECAY])
        for suffix, schedule in zip(("", "_d"), values.get("lr_schedulers") or []):
            found[f"lr_decay{suffix}"] = float(schedule["gamma"])
        for suffix, group in zip(("", "_d"), groups):
            found[f"learning_rate{suffix}"] = float(group["lr"])
            found[f"betas{suffix}"] = tuple(map(float, group["betas"]))
            found |= {name: float(group[name]) for name in ("eps", "weight_decay")}
            if group.get("amsgrad") or group.get("maximize"):
                raise ValueError("amsgrad and maximize are not Piper's")
        config = Config.from_dict({"optimizer": found}, str(path))
        check(config)
        return config.optimizer
    except _ODD as error:
        raise UserError(f"{path}: the settings of its optimizers cannot be: {error!s}") from None


def _position(values: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Batches trained, and the epoch that comes next."""
    try:
        step = _whole(values.get("global_step", 0)) // len(NETWORKS)
        epoch = _whole(values.get("epoch", 0))
        loop = (values.get("loops") or {}).get("fit_loop") or {}
        if "epoch_progress" in loop:
            saved, epoch = epoch, _whole(loop["epoch_progress"]["current"]["processed"])
            # Saved after the last batch, before the epoch was counted.
            if loop["epoch_loop.batch_progress"]["is_last_batch"] and epoch == saved:
                completed = loop["epoch_progress"]["current"]["completed"]
                epoch += int(completed == epoch)
    except _ODD as error:
        raise UserError(f"{path}: epoch and global_step: expected numbers ({error!s})") from None
    return step, epoch


def _whole(value: Any) -> int:
    number = int(value)
    if not 0 <= number < 2**31:
        raise ValueError(f"got {number}, expected a number from 0 to {2**31 - 1}")
    return number
