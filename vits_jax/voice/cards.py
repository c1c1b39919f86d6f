"""What is told to people of a voice: its model card, and the page of a repository of voices."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from vits_jax.cli import version
from vits_jax.data.voice_config import json_object
from vits_jax.errors import UserError
from vits_jax.voice.catalogue import Listing, Place
from vits_jax.voice.voice import Voice

_LOGGER = logging.getLogger(__name__)
_PUBLISHED = "rhasspy/piper-voices"  # on Hugging Face: where voices of Piper's are
_SHOWN = 10  # speakers whose samples the page links to
_HUBS = ("huggingface.co", "hf.co")
_UNSAID = "not recorded; whoever publishes the voice should say it here"


def model_card(
    title: str,
    step: str,
    voice: Voice,
    config: Mapping[str, Any],
    form: str,
    listing: Listing | None = None,
) -> bytes:
    """``MODEL_CARD``: what is known of the voice, and what its maker should add."""
    lines = [f"# Model card for {title}", "", *_facts(voice, config, form)]
    lines += ["", "## Dataset", "", *_dataset(voice, listing)]
    lines += ["", "## Training", "", *_training(step, listing), ""]
    return "\n".join(lines).encode()


def page(
    where: Place,
    step: str,
    voice: Voice,
    config: Mapping[str, Any],
    form: str,
    listing: Listing,
) -> bytes:
    """``README.md`` of a Hugging Face repository with the voice in it."""
    head = yaml.safe_dump(_front_matter(where, listing), sort_keys=False, allow_unicode=True)
    key, folder = where.key, where.within(where.folder)
    lines = ["---", head.rstrip(), "---", "", f"# {key}", ""]
    lines += ["A voice for [Piper](https://github.com/OHF-Voice/piper1-gpl), in the layout of "]
    lines[-1] += f"[{_PUBLISHED}](https://huggingface.co/{_PUBLISHED})."
    lines += ["", *_facts(voice, config, form), ""]
    if listing.samples is not None:
        lines += ["## How it sounds", "", *_samples(folder, config), ""]
        lines += [f"> {line}" for line in listing.samples.strip().splitlines()] + [""]
    lines += ["## How to use it", "", f"Download `{key}.onnx` and `{key}.onnx.json` from"]
    lines += [f"[{folder}]({folder}) into one directory; there:", "", "```"]
    lines += ["pip install piper-tts", f'piper -m {key}.onnx -f hello.wav -- "Text"', "```"]
    lines += ["", "## How good it is", "", *_figures(listing.evaluation), ""]
    lines += ["## Dataset", "", *_dataset(voice, listing), ""]
    lines += ["## Training", "", *_training(step, listing), ""]
    return "\n".join(lines).encode()


def new(contents: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """Those that are not there yet: people write into them."""
    for path in contents:
        if path.exists():
            _LOGGER.info("%s is there already: left as it is", path)
    return {path: content for path, content in contents.items() if not path.exists()}


def evaluated(path: Path, checkpoint: str | Path) -> dict[str, Any]:
    """What ``vits-jax evaluate --json`` wrote of a checkpoint: `Listing.evaluation`.

    Raises:
        UserError: it is no such file, or it tells of two voices, neither of which is this one.
    """
    try:
        said = json_object(str(path), path.read_bytes())
    except OSError as error:
        raise UserError(f"--evaluation {path}: {error.strerror or error}") from error
    voices = said.get("voices")
    voices = voices if isinstance(voices, list) else []
    if not voices or not all(map(_is_evaluated, voices)):
        raise UserError(
            f"--evaluation {path}: expected what vits-jax evaluate --json writes, with voices and "
            "their metrics"
        )
    same = [v for v in voices if Path(v["name"]).absolute() == Path(checkpoint).absolute()]
    if len(voices) > 1 and len(same) != 1:
        names = " and ".join(str(voice["name"]) for voice in voices)
        raise UserError(
            f"--evaluation {path}: it tells of {names}, and which is {checkpoint} is not clear: "
            "evaluate it alone"
        )
    sentences = said.get("sentences")
    return {
        "voice": (same or voices)[0],
        "source": str(said.get("source") or ""),
        "split": said.get("split"),
        "sentences": len(sentences) if isinstance(sentences, list) else 0,
    }


def _is_evaluated(voice: Any) -> bool:
    """Whether it is a voice with metrics, each an object with a mean."""
    if not isinstance(voice, dict) or not isinstance(voice.get("name"), str):
        return False
    metrics = voice.get("metrics")
    return isinstance(metrics, dict) and all(
        isinstance(result, dict) and "mean" in result for result in metrics.values()
    )


def _facts(voice: Voice, config: Mapping[str, Any], form: str) -> list[str]:
    model, language = voice.config.model, config.get("language") or {}
    durations = "stochastic" if model.use_sdp else "plain"
    parameters = sum(value.size for value in voice.parameters.values()) / 1e6
    names = ", ".join(voice.speakers)
    code = language.get("code") or config["espeak"]["voice"] or "not recorded"
    called = ", ".join(filter(None, map(language.get, ("name_english", "country_english"))))
    return [
        f"* Language: {code}{f' ({called})' if called else ''}",
        f"* Quality: {config['audio'].get('quality') or 'none of the presets'}",
        f"* Speakers: {model.num_speakers}{f' ({names})' if names else ''}",
        f"* Sample rate: {config['audio']['sample_rate']:,} Hz",
        f"* Phonemes: {config['phoneme_type']}",
        f"* Network: VITS, {parameters:.1f} M parameters, {durations} durations",
        f"* Weights: {form}{', averaged over training steps' if voice.averaged else ''}",
    ]


def _dataset(voice: Voice, listing: Listing | None) -> list[str]:
    url, licence = (listing.dataset_url, listing.licence) if listing else (None, None)
    return [
        f"* Name: {voice.dataset.get('dataset') or 'not recorded'}",
        f"* URL: {url or _UNSAID}",
        f"* License: {licence or _UNSAID}",
    ]


def _training(step: str, listing: Listing | None) -> list[str]:
    base = [f"* Begun with {listing.base}"] if listing is not None and listing.base else []
    return [*base, f"* Trained with vits_jax {version()}, step {step}"]


def _front_matter(where: Place, listing: Listing) -> dict[str, Any]:
    """What Hugging Face reads of a page; only what was said."""
    head: dict[str, Any] = {"language": [where.language["family"]]}
    if listing.licence is not None and urlsplit(listing.licence).scheme:
        head |= {"license": "other", "license_link": listing.licence}
    elif listing.licence is not None:
        head["license"] = listing.licence
    head |= {"library_name": "piper", "pipeline_tag": "text-to-speech"}
    head["tags"] = ["piper", "vits", "onnx"]
    base = None if listing.base is None else _model(listing.base)
    if base is not None:
        head["base_model"] = [base]
    if listing.dataset_url is not None:
        head["datasets"] = [_hub_id(listing.dataset_url, "datasets") or listing.dataset_url]
    return head


def _model(base: str) -> str | None:
    """The model on Hugging Face that a base is of; None of one that is elsewhere."""
    if urlsplit(base).scheme:
        return _hub_id(base, "")
    return base if "/" in base else _PUBLISHED


def _hub_id(address: str, kind: str) -> str | None:
    """``owner/name`` of an address on Hugging Face: models are of no kind."""
    parts = urlsplit(address)
    names = [part for part in parts.path.split("/") if part]
    if (parts.hostname or "").removeprefix("www.") not in _HUBS:
        return None
    if kind:
        names = names[1:] if names[:1] == [kind] else []
    elif names[:1] in (["datasets"], ["spaces"]):
        return None
    return "/".join(names[:2]) if len(names) >= 2 else None


def _samples(folder: str, config: Mapping[str, Any]) -> list[str]:
    names = {number: name for name, number in config["speaker_id_map"].items()}
    shown = range(min(config["num_speakers"], _SHOWN))
    lines = [
        f"* [{names.get(speaker, f'speaker {speaker}')}]({folder}/samples/speaker_{speaker}.mp3)"
        for speaker in shown
    ]
    more = config["num_speakers"] - len(shown)
    return [*lines, *([f"* {more} more in [samples]({folder}/samples)"] if more else [])]


def _figures(evaluation: Mapping[str, Any] | None) -> list[str]:
    """A table of what was measured."""
    if evaluation is None:
        return ["No figures were given; `vits-jax evaluate` takes them."]
    voice, metrics = evaluation["voice"], evaluation["voice"]["metrics"]
    split = f", {evaluation['split']}" if evaluation["split"] else ""
    source = Path(evaluation["source"]).name
    lines = [
        f"`vits-jax evaluate` of {evaluation['sentences']} sentences (of {source}{split}): the "
        "mean and its 95 % interval, and what the recordings themselves get.",
        "",
        "| metric | voice | recordings | better |",
        "|---|---|---|---|",
    ]
    for name, result in metrics.items():
        unit = f" ({result['unit']})" if result.get("unit") else ""
        own = _interval(result.get("recordings"))
        lines.append(
            f"| {name}{unit} | {_interval(result)} | {own} | {result.get('better', '–')} |"
        )
    not_taken = voice.get("not_taken")
    if isinstance(not_taken, dict) and not_taken:
        lines += ["", f"Not taken: {', '.join(not_taken)}."]
    return lines


def _interval(of: Any) -> str:
    """``mean [low, high]``; a dash for what is not known."""
    mean, low, high = [of.get(k) for k in ("mean", "low", "high")] if of else [None] * 3
    if not isinstance(mean, int | float):
        return "–"
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"{mean:.3g}"
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"
