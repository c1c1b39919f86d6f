"""The metrics that there are, in the order of the tables."""

from __future__ import annotations

import difflib

from vits_jax.errors import UserError
from vits_jax.metrics import aligned, levels, naturalness, recognition, speaker
from vits_jax.metrics.metric import Metric, Need

_REFERENCE: frozenset[Need] = frozenset({"reference"})
_TEXT: frozenset[Need] = frozenset({"text"})
_RECORDINGS: frozenset[Need] = frozenset({"recordings"})

METRICS: tuple[Metric, ...] = (
    Metric(
        "mel",
        aligned.mel,
        about="distance of the log mel spectrograms, at one time",
        source="Piper's reconstruction loss, without its weight",
        needs=_REFERENCE,
    ),
    Metric(
        "mcd",
        aligned.cepstral_distortion,
        unit="dB",
        about="mel-cepstral distortion: how different the timbre is",
        source="Kubichek 1993",
        needs=_REFERENCE,
    ),
    Metric(
        "f0",
        aligned.pitch_error,
        unit="cents",
        about="how far the pitch is from the recording's",
        source="WORLD, Morise et al. 2016",
        needs=_REFERENCE,
    ),
    Metric(
        "voicing",
        aligned.voicing_error,
        unit="%",
        about="how often one is voiced where the other is not",
        source="WORLD, Morise et al. 2016",
        needs=_REFERENCE,
    ),
    Metric(
        "dnsmos",
        naturalness.overall,
        better="higher",
        unit="MOS",
        about="what listeners would say of speech and background, from 1 to 5",
        source="DNSMOS P.835, Reddy et al. 2022",
        cost="dear",
    ),
    Metric(
        "p808",
        naturalness.quality,
        better="higher",
        unit="MOS",
        about="what listeners would say of the quality, from 1 to 5",
        source="DNSMOS P.808, Reddy et al. 2021",
        cost="dear",
    ),
    Metric(
        "wer",
        recognition.word_errors,
        unit="%",
        about="words that a recogniser does not understand",
        source="pocketsphinx, American English",
        needs=_TEXT,
        cost="dear",
        languages=("en",),
    ),
    Metric(
        "cer",
        recognition.character_errors,
        unit="%",
        about="characters that a recogniser does not understand",
        source="pocketsphinx, American English",
        needs=_TEXT,
        cost="dear",
        languages=("en",),
    ),
    Metric(
        "similarity",
        speaker.similarity,
        better="higher",
        about="cosine to the mean embedding of the speaker's recordings",
        source="Resemblyzer's encoder, Wan et al. 2018",
        needs=_RECORDINGS,
        cost="dear",
    ),
    Metric(
        "loudness",
        levels.loudness,
        better="nearest",
        unit="LUFS",
        about="how loud it is",
        source="ITU-R BS.1770-4",
    ),
    Metric(
        "clipping",
        levels.clipping,
        unit="%",
        about="samples in runs at full scale",
    ),
    Metric(
        "silence",
        levels.silence,
        better="nearest",
        unit="%",
        about="frames that are silent",
    ),
    Metric(
        "rate",
        levels.tempo,
        better="nearest",
        unit="1/s",
        about="letters and digits of the text per second of speech",
        needs=_TEXT,
    ),
)

CHEAP, ALL = "cheap", "all"


def selected(names: str = ALL) -> list[Metric]:
    """Metrics by their names.

    Args:
        names: separated by commas; ``cheap`` stands for all that are cheap, ``all`` for all.

    Raises:
        UserError: there is no such metric, or no name.
    """
    by_name = {metric.name: metric for metric in METRICS}
    chosen: dict[str, Metric] = {}
    for name in filter(None, (word.strip() for word in names.split(","))):
        if name == ALL:
            chosen |= by_name
        elif name == CHEAP:
            chosen |= {n: metric for n, metric in by_name.items() if metric.cost == "cheap"}
        elif name in by_name:
            chosen[name] = by_name[name]
        else:
            near = difflib.get_close_matches(name, by_name, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(
                f"no metric {name!r}: {hint}there are {', '.join(by_name)}, and {CHEAP}, {ALL}; "
                "one of your own is --metric package.module:function"
            )
    if not chosen:
        raise UserError(f"{names!r} names no metric: there are {', '.join(by_name)}")
    return [metric for metric in METRICS if metric.name in chosen]
