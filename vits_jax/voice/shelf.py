"""A voice put where clients look for it, with what belongs there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from vits_jax.voice import cards, catalogue, samples
from vits_jax.voice.voice import Voice

_LOGGER = logging.getLogger(__name__)
_PAGE = "README.md"
_SAMPLES = "samples"


@dataclass(frozen=True)
class Shelf:
    """Where a voice that is published goes, and what goes there with it.

    Attributes:
        place: of the voice.
        config: its JSON.
        listing: what is said of it.
        sentences: phoneme ids of what the samples say.
    """

    place: catalogue.Place
    config: dict[str, Any]
    listing: catalogue.Listing
    sentences: list[list[int]]

    @classmethod
    def of(cls, root: Path, config: Mapping[str, Any], listing: catalogue.Listing) -> Shelf:
        """All that can be known before anything takes long.

        Args:
            root: of the tree.
            config: the JSON of a plain export.
            listing: what is said of the voice.

        Raises:
            UserError: no such language or quality, samples that cannot be, a broken list.
        """
        catalogue.read_list(root)  # that it can be read: its entries are taken when it is written
        place = catalogue.place(root, config, listing)
        papers = catalogue.voice_config(config, place)
        sentences = []
        if listing.samples is not None:
            samples.check_format()
            sentences = samples.sentences_of(papers, listing.samples)
        return cls(place, papers, listing, sentences)

    def contents(
        self,
        plain: Mapping[Path, bytes],
        model: onnx.ModelProto,
        voice: Voice,
        step: str,
        form: str,
    ) -> dict[Path, bytes]:
        """Cards, samples and the list, beside the files `plain` that any export has."""
        place, config, listing = self.place, self.config, self.listing
        card, page = place.folder / catalogue.CARD, place.root / _PAGE
        title = f"{place.name} ({place.quality})"
        found = cards.new(
            {
                card: cards.model_card(title, step, voice, config, form, listing),
                page: cards.page(place, step, voice, config, form, listing),
            }
        )
        if page not in found and place.key.encode() not in page.read_bytes():
            _LOGGER.warning("%s does not tell of %s yet: add it", page, place.key)
        if listing.samples is not None:
            for speaker, sound in enumerate(samples.samples(model, config, self.sentences)):
                found[place.folder / _SAMPLES / f"speaker_{speaker}.mp3"] = sound
        elif (place.folder / _SAMPLES).exists():
            _LOGGER.warning(
                "%s is of an earlier export: --samples has it spoken anew", place.folder / _SAMPLES
            )
        said = {"--licence": listing.licence, "--dataset-url": listing.dataset_url}
        unsaid = [flag for flag, value in (said | {"--base": listing.base}).items() if not value]
        if unsaid and card in found:
            _LOGGER.warning("the cards do not say what %s would", ", ".join(unsaid))
        graph_json = place.graph.with_name(f"{place.graph.name}.json")
        fetched = {path: plain[path] for path in (place.graph, graph_json)}
        fetched[card] = found[card] if card in found else card.read_bytes()
        voices = catalogue.read_list(place.root)
        voices[place.key] = catalogue.entry(place, config, fetched, voices.get(place.key))
        return found | {place.root / catalogue.LIST: catalogue.list_json(voices)}
