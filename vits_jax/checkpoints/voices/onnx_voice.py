"""Piper voices (``NAME.onnx`` and ``NAME.onnx.json``) as checkpoints.

A voice holds what speaking needs and no more. `read` recovers those tensors; `write`
makes a checkpoint of them that speaks, is exported and warm-starts a run::

    OUT/checkpoints/0/state      {"step": 0, "params": {"model_g": {name: array}}}

What is not in it: the optimizer, the discriminators, and of the generator what
`vits_jax.checkpoints.source.UNHEARD` lists.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vits_jax.checkpoints import saving, store
from vits_jax.checkpoints.sizes import count, decoder_layers, model_sizes
from vits_jax.checkpoints.source import UNHEARD
from vits_jax.checkpoints.voices.onnx_file import load
from vits_jax.checkpoints.voices.onnx_graph import Weights, weights
from vits_jax.config import AudioConfig, Config, ModelConfig
from vits_jax.config_checks import problems
from vits_jax.errors import UserError
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.state import Position, TrainState

SEGMENT_FRAMES = 32  # Piper's
_MOST_JSON_BYTES = 1 << 24
_LARGEST_HOP = 1 << 13  # samples; Piper's is 256
_NORM = (".weight_g", ".weight_v")


class Recovered(NamedTuple):
    """A voice's network: all that can be known of it.

    `dataset` is the voice's JSON, `parameters` the generator's by their names.
    """

    config: Config
    dataset: dict[str, Any]
    parameters: dict[str, np.ndarray]

    @property
    def left_out(self) -> list[str]:
        """Tensors of the generator that such a graph does not hold."""
        return [
            name for name in parameter_shapes(self.config)[GENERATOR] if name not in self.parameters
        ]


def read(path: str | Path, voice_config: str | Path | None = None) -> Recovered:
    """Recover a network from a voice.

    Sizes come from the tensors, and what the JSON says of them must agree. A weight that
    was normalised in training comes back as ``v = w``, ``g = ‖w‖``.

    Args:
        path: ``NAME.onnx``, exported by Piper or by this project.
        voice_config: its JSON (default: ``NAME.onnx.json`` beside it).

    Raises:
        UserError: not a voice, damaged, or not one network: all that is wrong with it.
    """
    path = Path(path)
    model = load(path)
    try:
        found = weights(model)
    except UserError as error:
        raise UserError(f"{path}: not a voice that can be imported: {error}") from error
    dataset = _read_json(path, voice_config)
    wrong = list(found.unnamed)
    config = _config(path, found, dataset, wrong)
    parameters = _parameters(config, found, wrong)
    if wrong:
        raise UserError(f"{path}: not a voice that can be imported: " + "; ".join(wrong))
    return Recovered(config, dataset, parameters)


def write(out: str | Path, voice: Recovered) -> None:
    """Write a checkpoint, a run directory with step 0 alone; whole, or not at all.

    Raises:
        UserError: `out` is there already, or cannot be made.
        RunFailed: the disk is full.
    """
    state = TrainState(np.zeros((), np.int32), {GENERATOR: dict(voice.parameters)})
    metadata = store.Metadata(voice.config, Position(), dataset=voice.dataset, plan={})
    saving.write_new(out, 0, state.to_dict(), metadata)


# What the JSON says


def _read_json(path: Path, voice_config: str | Path | None) -> dict[str, Any]:
    beside = path.with_name(path.name + ".json")
    where = beside if voice_config is None else Path(voice_config)
    try:
        if where.stat().st_size > _MOST_JSON_BYTES:
            raise UserError(f"{where}: over {_MOST_JSON_BYTES} bytes: expected a voice's JSON")
        values = json.loads(where.read_text(encoding="utf-8-sig"))
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair cannot be written
    except OSError as error:
        raise UserError(
            f"cannot read {where}: {error.strerror}: a voice's JSON lies beside it, "
            "or --voice-config names it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: broken JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(values).__name__}")
    wrong = list(_wrong_in_json(values))
    if wrong:
        raise UserError(f"{where}: not the JSON of a Piper voice: " + "; ".join(wrong))
    return values


def _wrong_in_json(values: Mapping[str, Any]) -> Iterator[str]:
    rate = (values.get("audio") or {}).get("sample_rate") if _is_map(values, "audio") else None
    if not _is_count(rate):
        yield f"audio.sample_rate is {rate!r}, expected a whole number above 0"
    for key in ("num_symbols", "num_speakers", "hop_length"):
        if values.get(key) is not None and not _is_count(values[key]):
            yield f"{key} is {values[key]!r}, expected a whole number above 0"
    symbols = values.get("phoneme_id_map")
    if not isinstance(symbols, dict) or not symbols:
        yield "no phoneme_id_map, expected a list of ids for each symbol"
    elif not all(isinstance(ids, list) and all(map(_is_id, ids)) for ids in symbols.values()):
        yield "phoneme_id_map should give each symbol a list of ids"
    if not _is_map(values, "speaker_id_map") or not all(
        map(_is_id, (values.get("speaker_id_map") or {}).values())
    ):
        yield "speaker_id_map should give each speaker's name an id"
    for key in ("espeak", "inference", "language"):
        if not _is_map(values, key):
            yield f"{key} is {values[key]!r}, expected an object"


def _is_map(values: Mapping[str, Any], key: str) -> bool:
    return values.get(key) is None or isinstance(values[key], dict)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_count(value: Any) -> bool:
    return _is_id(value) and value > 0


# Sizes


def _config(path: Path, found: Weights, dataset: Mapping[str, Any], wrong: list[str]) -> Config:
    """The configuration that the tensors have; what speaks against it is added to `wrong`."""
    dims = {name: array.shape for name, array in found.tensors.items()}
    ups, blocks, convs = decoder_layers(dims)
    per_stage = blocks // max(ups, 1)
    needed = {
        "enc_p.emb.weight": 2,
        "enc_p.proj.weight": 3,
        "enc_p.encoder.attn_layers.0.emb_rel_k": 3,
        "enc_p.encoder.ffn_layers.0.conv_1.weight": 3,
        "dec.conv_pre.weight": 3,
        **{f"dec.ups.{i}.weight": 3 for i in range(max(ups, 1))},
        **{f"dec.resblocks.{i}.{convs}.0.weight": 3 for i in range(max(per_stage, 1))},
    }
    needed |= {"emb_g.weight": 2} if "emb_g.weight" in dims else {}
    broken = [
        f"{name}: got {list(dims[name]) if name in dims else 'none'}, expected {axes} axes"
        for name, axes in needed.items()
        if len(dims.get(name, ())) != axes or min(dims[name]) < 1
    ]
    if broken:  # no sizes, so nothing to hold the other tensors against
        raise UserError(f"{path}: not the tensors of a Piper voice: " + "; ".join(wrong + broken))
    model = ModelConfig(
        **model_sizes(dims),
        resblock_dilation_sizes=tuple(
            tuple(
                found.dilations.get(f"{row}.{i}", 0)
                for i in range(count(dims, re.escape(row) + r"\.(\d+)\.weight"))
            )
            for row in (f"dec.resblocks.{i}.{convs}" for i in range(per_stage))
        ),
        upsample_rates=tuple(found.strides.get(f"dec.ups.{i}", 0) for i in range(ups)),
    )
    hop = math.prod(model.upsample_rates)
    if not 1 <= hop <= _LARGEST_HOP:
        raise UserError(
            f"{path}: not the sizes of a Piper voice: strides {list(model.upsample_rates)} of "
            f"dec.ups, expected a product from 1 to {_LARGEST_HOP}"
        )
    audio = AudioConfig(
        sample_rate=dataset["audio"]["sample_rate"],
        filter_length=4 * hop,  # Piper's ratio; the graph has no trace of it
        hop_length=hop,
        win_length=4 * hop,
    )
    config = Config(audio=audio).replaced(vars(model) | {"segment_size": SEGMENT_FRAMES * hop})
    impossible = list(problems(config))
    if "emb_g.weight" in dims and model.num_speakers < 2:
        impossible.append(f"emb_g.weight: got {list(dims['emb_g.weight'])}, expected several rows")
    if impossible:
        raise UserError(f"{path}: not the sizes of a Piper voice: " + "; ".join(wrong + impossible))
    wrong.extend(_against_json(config, dataset))
    wrong.extend(_against_dilations(config, found))
    return config


def _against_json(config: Config, dataset: Mapping[str, Any]) -> Iterator[str]:
    model = config.model
    got = {
        "num_symbols": model.num_symbols,
        "num_speakers": model.num_speakers,
        "hop_length": config.audio.hop_length,
    }
    for key, value in got.items():
        if dataset.get(key) is not None and dataset[key] != value:
            yield f"{key}: {value} by the tensors, {dataset[key]} by the JSON"
    ids = [i for ids in dataset["phoneme_id_map"].values() for i in ids]
    if max(ids, default=0) >= model.num_symbols:
        yield f"phoneme_id_map: id {max(ids)}, expected ids below {model.num_symbols}"
    speakers = (dataset.get("speaker_id_map") or {}).values()
    if max(speakers, default=0) >= model.num_speakers:
        yield f"speaker_id_map: id {max(speakers)}, expected ids below {model.num_speakers}"


def _against_dilations(config: Config, found: Weights) -> Iterator[str]:
    """Convolutions that are not dilated as the network's."""
    per_stage = len(config.model.resblock_kernel_sizes)
    for path, dilation in found.dilations.items():
        expected = 1
        if match := re.fullmatch(r"dec\.resblocks\.(\d{1,3})\.convs1?\.(\d)", path):
            row = config.model.resblock_dilation_sizes[int(match.group(1)) % per_stage]
            expected = dict(enumerate(row)).get(int(match.group(2)), 1)
        elif match := re.fullmatch(r".*\.convs_sep\.(\d)", path):
            expected = 3 ** int(match.group(1))
        if dilation != expected:
            yield f"{path}: got dilation {dilation}, expected {expected}"


# Parameters


def _parameters(config: Config, found: Weights, wrong: list[str]) -> dict[str, np.ndarray]:
    """The generator's parameters; tensors too many, missing or of other shapes go to `wrong`."""
    trained = {
        name: shape
        for name, shape in parameter_shapes(config)[GENERATOR].items()
        if not name.startswith(UNHEARD)
    }
    # Of a normalised weight the graph holds the product, in the shape of v.
    expected = {
        name.replace("weight_v", "weight"): shape
        for name, shape in trained.items()
        if not name.endswith(_NORM[0])
    }
    for name, shape in expected.items():
        array = found.tensors.get(name)
        if array is None:
            wrong.append(f"{name}: got none, expected {list(shape)}")
        elif array.shape != shape:
            wrong.append(f"{name}: got {list(array.shape)}, expected {list(shape)}")
        elif not np.isfinite(array).all():
            wrong.append(f"{name}: has numbers that are not finite")
    for name, array in found.tensors.items():
        if name not in expected:
            wrong.append(f"{name}: got {list(array.shape)}, expected none")
    if wrong:
        return {}
    parameters = {}
    for name in trained:
        module, _, kind = name.rpartition(".")
        weight = found.tensors[f"{module}.weight" if name.endswith(_NORM) else name]
        if name.endswith(_NORM):
            weight = normalised(weight)[_NORM.index(f".{kind}")]
        parameters[name] = np.ascontiguousarray(weight, np.float32)
    return parameters


def normalised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``g [N, 1, …]`` and ``v [N, …]`` of a weight ``[N, …]`` that is ``g · v / ‖v‖``.

    The norm is over all but the first dimension. A row of zeros has no direction: it gets
    one, and the length zero.
    """
    axes = tuple(range(1, weight.ndim))
    g = np.sqrt(np.sum(weight.astype(np.float64) ** 2, axis=axes, keepdims=True))
    return g.astype(np.float32), np.where(g > 0, weight, np.float32(1))
