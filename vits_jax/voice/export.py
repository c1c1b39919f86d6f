"""A checkpoint as a voice that Piper's runtimes play; verified before anything is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from vits_jax import files
from vits_jax.checkpoints.source import open_checkpoint
from vits_jax.errors import RunFailed, UserError
from vits_jax.voice import cards, companions, compression, graph
from vits_jax.voice.catalogue import Listing
from vits_jax.voice.shelf import Shelf
from vits_jax.voice.streaming import (
    HOP,
    MARGIN,
    FirstAudio,
    Player,
    margin,
    streaming_pair,
    time_first_audio,
)
from vits_jax.voice.verify import Agreement, Tolerance, compare, session, texts
from vits_jax.voice.voice import Voice, of_source

_LOGGER = logging.getLogger(__name__)

FORMS = {
    "float32": Tolerance(audio=1e-3, durations=1e-4),
    "float16": Tolerance(audio=0.02, durations=0.01),
    "int8": Tolerance(audio=0.3, durations=0.2),
}
"""What weights can be stored as, and how far each may be from JAX."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how well it agrees with JAX."""

    files: list[Path]
    agreement: Agreement
    first_audio: FirstAudio | None  # of a streaming pair


def export(
    checkpoint: str | Path,
    output: str | Path,
    *,
    form: str = "float32",
    alignments: bool = False,
    streaming: bool = False,
    voice_config: str | Path | None = None,
    ema: bool = True,
    best: bool = False,
    listing: Listing | None = None,
) -> Exported:
    """Write ``voice.onnx`` and what belongs beside it.

    Args:
        checkpoint: a run directory, one step of it, or a ``.ckpt``.
        output: where the graph goes; ends in ``.onnx``. With a `listing` the tree of voices, in
          which the voice gets its place.
        form: of `FORMS`.
        alignments: list the durations as a second output.
        streaming: write ``voice.streaming/encoder.onnx`` and ``decoder.onnx`` as well.
        voice_config: the ``config.json`` that goes with a ``.ckpt``.
        ema: take the averages of the weights, where it has some.
        best: of a run directory the best step that is kept, not its latest.
        listing: what is said of a voice that is published.

    Raises:
        UserError: no checkpoint, one without a phoneme map, a file that cannot be written.
        RunFailed: the graph does not speak as JAX does; nothing is written.
    """
    output = Path(output)
    if listing is None and output.suffix != ".onnx":
        raise UserError(f"{output}: expected a name that ends in .onnx")
    files.check_writable(output if listing is not None else output.parent)
    source = open_checkpoint(checkpoint, voice_config, best=best)
    voice = of_source(source, ema=ema)
    if not voice.dataset.get("phoneme_id_map"):
        raise UserError(
            f"{checkpoint}: no phoneme map in it (phoneme_id_map in its dataset's config.json), "
            "and no runtime speaks without: name it with --voice-config"
        )
    config = companions.voice_config(voice, output.stem)
    shelf = None
    if listing is not None:
        shelf = Shelf.of(output, config, listing)
        output, config = shelf.place.graph, shelf.config
    parameters = {name: np.asarray(value) for name, value in voice.parameters.items()}
    model = graph.whole(voice.config, parameters, alignments=alignments)
    model = finished(model, form, companions.metadata(config))
    agreement = compare(model, voice, FORMS[form])
    if not agreement.within(FORMS[form]):
        raise RunFailed(
            f"{output} is not written, its graph does not speak as the checkpoint does: {agreement}"
        )
    _LOGGER.info("%s: %s", form, agreement)

    contents = {
        output: model.SerializeToString(),
        output.with_name(output.name + ".json"): companions.to_json(config),
        output.with_name("tokens.txt"): companions.tokens(config),
    }
    step = source.where.name
    if shelf is None:
        card = cards.model_card(output.stem, step, voice, config, form)
        contents |= cards.new({output.with_name("MODEL_CARD.md"): card})
    else:
        contents |= shelf.contents(contents, model, voice, step, form)
    first_audio = None
    if streaming:
        halves = {
            "encoder": graph.encoder(voice.config, parameters),
            "decoder": graph.decoder(voice.config, parameters),
        }
        more = {HOP: config["hop_length"], MARGIN: margin(voice.config)}
        for part, half in halves.items():
            half = finished(
                half, form, companions.metadata(config) | {k: str(v) for k, v in more.items()}
            )
            halves[part] = half
            contents[streaming_pair(output)[part]] = half.SerializeToString()
        first_audio = _stream(voice, model, halves, form)
        _LOGGER.info("streaming: %s", first_audio)
    files.write(contents)
    for path in contents:
        _LOGGER.info("%s: %.1f MB", path, path.stat().st_size / 1e6)
    return Exported(list(contents), agreement, first_audio)


def finished(model: onnx.ModelProto, form: str, metadata: dict[str, str]) -> onnx.ModelProto:
    """With its weights in that form, checked and described."""
    if form == "float16":
        model = compression.half(model)
    elif form == "int8":
        model = compression.quantize(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.helper.set_model_props(model, metadata)
    return model


def _stream(
    voice: Voice, model: onnx.ModelProto, halves: dict[str, onnx.ModelProto], form: str
) -> FirstAudio:
    """Time the pair on a sentence of ten seconds; `RunFailed` where it says something else."""
    player = Player(*(session(half) for half in halves.values()))
    timed = time_first_audio(player, session(model), texts(voice)[-1], 10.0, voice.sample_rate)
    # Eight bits are scaled to what they find in each chunk, so those differ a little.
    most = FORMS[form].audio if form == "int8" else 1e-5
    if not timed.difference <= most:
        raise RunFailed(
            f"the streaming pair is not written: its chunks are up to {timed.difference:.1e} from "
            f"the whole, at most {most:.0e} is allowed"
        )
    return timed
