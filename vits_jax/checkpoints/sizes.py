"""Sizes of a model, read off the names and shapes of its tensors.

What tensors cannot tell (dilations, strides, dropout, the segment) comes from the
hyperparameters beside them, else from what every Piper preset has.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from vits_jax.config import FIELDS, Config
from vits_jax.config_checks import problems
from vits_jax.errors import UserError
from vits_jax.flag_types import convert

_LOGGER = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

# Of the hyperparameters, what tensors do not show; the others are held against the tensors.
_NOT_IN_TENSORS = (
    *("p_dropout", "segment_size", "resblock_dilation_sizes", "upsample_rates"),
    *("hop_length", "win_length", "mel_channels", "mel_fmin", "mel_fmax", "sample_rate"),
)
_DILATIONS = {"1": (1, 3, 5), "2": ((1, 2), (2, 6), (3, 12))}


def infer_sizes(
    generator: Shapes, discriminator: Shapes, given: Mapping[str, Any], where: str
) -> Config:
    """A configuration whose networks have these tensors.

    Args:
        generator: shapes by Piper's names, without ``model_g.``.
        discriminator: the same of ``model_d``; may be empty.
        given: hyperparameters under Piper's names, values of any type; unknown ones are
            passed over. Where they contradict the tensors, the tensors are right.
        where: for messages.

    Raises:
        UserError: tensors that no size can be read off, or values that cannot be.
    """
    values = {}
    for name, value in given.items():
        if name not in FIELDS or FIELDS[name].section not in ("model", "audio") or value is None:
            continue
        try:
            values[name] = convert(value, FIELDS[name].type, f"{where}: {name}")
        except UserError as error:
            if name in _NOT_IN_TENSORS:
                raise
            _LOGGER.warning("%s: the tensors tell", error)
    try:
        seen = model_sizes(generator) | _audio_sizes(generator, values)
        if discriminator:
            seen["discriminator_width"] = max(
                shape[0] for name, shape in discriminator.items() if name.endswith("weight_v")
            )
        if "resblock_dilation_sizes" not in values:
            seen["resblock_dilation_sizes"] = _dilations(seen)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{where}: not Piper's generator: no sizes can be read off its tensors ({error!s})"
        ) from None
    for name, value in seen.items():
        if name in values and values[name] != value and name not in _NOT_IN_TENSORS:
            _LOGGER.warning(
                "%s: the hyperparameters say %s %s, the tensors %s: the tensors are right",
                *(where, name, values[name], value),
            )
    config = Config().replaced(values | seen)
    wrong = list(problems(config))
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong)}")
    return config


def count(shapes: Shapes, pattern: str) -> int:
    """How many there are, numbered from 0 without a gap by the group of `pattern`."""
    numbers = {int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match}
    return next(i for i in itertools.count() if i not in numbers)


def model_sizes(shapes: Shapes) -> dict[str, Any]:
    """What the tensors tell of a `ModelConfig`, by its fields' names.

    Args:
        shapes: of the generator's tensors, weight norm applied (``weight``) or not
            (``weight_v``).

    Raises:
        KeyError, IndexError, ValueError, ZeroDivisionError: no generator of Piper's.
    """

    def kernel(layer: str) -> int:
        folded = shapes.get(f"{layer}.weight")
        return (folded or shapes[f"{layer}.weight_v"])[2]

    num_symbols, hidden = shapes["enc_p.emb.weight"]
    filters, _, kernel_size = shapes["enc_p.encoder.ffn_layers.0.conv_1.weight"]
    stages, blocks, convs = decoder_layers(shapes)
    speakers, gin = shapes.get("emb_g.weight", (1, 0))
    if not gin and "dec.cond.weight" in shapes:
        gin = shapes["dec.cond.weight"][1]
    return {
        "num_symbols": num_symbols,
        "num_speakers": speakers,
        "resblock": "1" if convs == "convs1" else "2",
        "resblock_kernel_sizes": tuple(
            kernel(f"dec.resblocks.{i}.{convs}.0") for i in range(blocks // stages)
        ),
        "upsample_kernel_sizes": tuple(kernel(f"dec.ups.{i}") for i in range(stages)),
        "upsample_initial_channel": shapes["dec.conv_pre.weight"][0],
        "inter_channels": shapes["enc_p.proj.weight"][0] // 2,
        "hidden_channels": hidden,
        "filter_channels": filters,
        "kernel_size": kernel_size,
        "n_heads": hidden // shapes["enc_p.encoder.attn_layers.0.emb_rel_k"][2],
        "n_layers": count(shapes, r"enc_p\.encoder\.attn_layers\.(\d+)\."),
        "gin_channels": gin,
        "use_sdp": "dp.conv_1.weight" not in shapes,
    }


def decoder_layers(shapes: Shapes) -> tuple[int, int, str]:
    """How many upsampling stages and residual blocks, and what a block calls its layers."""
    first = "dec.resblocks.0.convs1.0.weight"
    convs = "convs1" if first in shapes or f"{first}_v" in shapes else "convs"
    return count(shapes, r"dec\.ups\.(\d+)\."), count(shapes, r"dec\.resblocks\.(\d+)\."), convs


def _audio_sizes(shapes: Shapes, values: Mapping[str, Any]) -> dict[str, Any]:
    """Strides are half of their kernels in every preset; the hop is their product."""
    found: dict[str, Any] = {}
    kernels = model_sizes(shapes)["upsample_kernel_sizes"]
    rates = values.get("upsample_rates", tuple(k // 2 for k in kernels))
    found["upsample_rates"], found["hop_length"] = rates, math.prod(rates)
    if "enc_q.pre.weight" in shapes:
        found["filter_length"] = 2 * (shapes["enc_q.pre.weight"][1] - 1)
        if "win_length" not in values:
            found["win_length"] = found["filter_length"]
    return found


def _dilations(sizes: Mapping[str, Any]) -> tuple[Any, ...]:
    kernels = sizes["resblock_kernel_sizes"]
    if sizes["resblock"] == "1":
        return (_DILATIONS["1"],) * len(kernels)
    if len(kernels) != len(_DILATIONS["2"]):
        raise ValueError("resblock_dilation_sizes are missing")
    return _DILATIONS["2"]
