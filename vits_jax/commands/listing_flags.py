"""The flags that say of a voice what its listeners want to know: ``export-onnx --name``."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vits_jax.cli import Parser
from vits_jax.errors import UserError
from vits_jax.presets import preset_names

# Piper's downloader splits a key at each `-`, and knows addresses in ASCII alone.
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_FLAGS = ("language", "quality", "licence", "dataset_url", "base", "samples", "evaluation")
_KEY = re.compile(r"[a-z]+_\w+-[^-]+-\w+")
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_USUAL = "cc0-1.0, cc-by-4.0, mit, apache-2.0"

# The identifiers that Hugging Face knows: https://huggingface.co/docs/hub/repositories-licenses
_LICENCES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause "
    "bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by "
    "odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown"
)


def add_listing_flags(parser: Parser) -> None:
    """``--name``, and what is said with it."""
    add = parser.add_argument_group(
        "to publish it, in the layout of rhasspy/piper-voices"
    ).add_argument
    add("--name", help="of the voice: letters, digits and _; the output is a directory of voices")
    add("--language", metavar="TAG", help="en-us, nl_BE … (default: what the checkpoint says)")
    add("--quality", help="x_low, low, medium, high … (default: what the checkpoint says)")
    add("--licence", "--license", help=f"{_USUAL} …, or the address of its text")
    add("--dataset-url", metavar="URL", help="where the recordings are")
    add(
        "--base",
        help="what training began with: a voice of Piper's (en_US-lessac-medium), a model on "
        "Hugging Face (OWNER/NAME), or an address",
    )
    add("--samples", metavar="FILE", help="a text that each speaker says, as MP3")
    add(
        "--evaluation",
        type=Path,
        metavar="FILE",
        help="figures for the page, from vits-jax evaluate --json",
    )


def check_name(name: str) -> None:
    """Raise `UserError` for what is no name of a voice that clients find."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--name {name!r}: expected letters of a to z, digits and _ (at most 64): clients call "
            "the voice LANGUAGE-NAME-QUALITY"
        )


def listing_of(flags: argparse.Namespace) -> dict[str, Any] | None:
    """What the flags say, checked, as `voice.catalogue.Listing` takes it; None without a name.

    `evaluation` is left out: `voice.cards.evaluated` reads it.

    Raises:
        UserError: a value that cannot be, or flags without ``--name``.
    """
    if flags.name is None:
        given = [name for name in _FLAGS if getattr(flags, name) is not None]
        if given:
            flag = given[0].replace("_", "-")
            raise UserError(f"--{flag} is for voices that are published: name this one with --name")
        return None
    check_name(flags.name)
    if flags.output.endswith(".onnx"):
        raise UserError(
            f"{flags.output}: with --name expected a directory of voices: its files are named "
            "after the voice"
        )
    if flags.dataset_url is not None and not _is_address(flags.dataset_url):
        raise UserError(f"--dataset-url {flags.dataset_url}: expected an address, https://…")
    return {
        "name": flags.name,
        "language": flags.language,
        "quality": None if flags.quality is None else _quality(flags.quality),
        "licence": None if flags.licence is None else _licence(flags.licence),
        "dataset_url": flags.dataset_url,
        "base": None if flags.base is None else _base(flags.base),
        "samples": None if flags.samples is None else _text(flags.samples),
    }


def _quality(given: str) -> str:
    known = [name.replace("-", "_") for name in preset_names()]
    quality = given.replace("-", "_")
    if quality not in known:
        raise UserError(f"--quality {given}: expected one of {', '.join(known)}")
    return quality


def _licence(given: str) -> str:
    if _is_address(given):
        return given
    licence = given.lower().replace(" ", "-")
    licence = {"cc0": "cc0-1.0"}.get(licence, licence)
    known = _LICENCES.split()
    if licence not in known:
        near = difflib.get_close_matches(licence, known, n=1)
        hint = (
            f"did you mean {near[0]}?" if near else f"expected {_USUAL} … or the address of a text"
        )
        raise UserError(f"--licence {given}: no licence that Hugging Face knows: {hint}")
    return licence


def _base(given: str) -> str:
    if Path(given).exists():
        raise UserError(
            f"--base {given}: a file here, which no reader has: expected a voice of Piper's "
            "(en_US-lessac-medium), a model on Hugging Face (OWNER/NAME), or an address"
        )
    if _KEY.fullmatch(given) or _MODEL.fullmatch(given) or _is_address(given):
        return given
    raise UserError(
        f"--base {given}: expected a voice of Piper's (en_US-lessac-medium), a model on Hugging "
        "Face (OWNER/NAME), or an address"
    )


def _text(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"--samples {path}: {why}: expected a text to be said") from error
    if not text:
        raise UserError(f"--samples {path}: it is empty: expected a text to be said")
    return text


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname)
