"""``gather``: recordings in a folder to a corpus that ``preprocess`` reads.

::

    OUT/metadata.csv       id|text; a recording that is used whole is named by its path
    OUT/wav/NAME_0001.flac pieces of long recordings
    OUT/gathered.json      `Gathered`
    OUT/transcripts.jsonl  what the recogniser heard, by what it was given: a start that was
                           stopped does not ask it again
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from vits_jax import files
from vits_jax.data.corpora import audio_files
from vits_jax.data.corpora.corpus import EXTENSIONS
from vits_jax.data.gathering.cutting import Lengths, cut
from vits_jax.data.gathering.hearing import Hearing, one_line
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)

METADATA, GATHERED, TRANSCRIPTS = "metadata.csv", "gathered.json", "transcripts.jsonl"
LONGEST = 15.0
"""Seconds of a recording that is used whole."""
MOST_SECONDS = 7200.0
"""Of one recording: it is in memory while it is cut."""
_NAMED = 3  # recordings, in a message

NO_SPEECH, NO_WORDS, UNREADABLE = "no speech", "no words", "unreadable"


@dataclass(frozen=True)
class Found:
    """A recording of a folder.

    Attributes:
        path: of its file.
        name: without ending, by folders below the first.
        text: that lies beside it, in one line; None where there is none.
        seconds: that its header says; NaN where it cannot be read.
    """

    path: Path
    name: str
    text: str | None
    seconds: float


@dataclass
class Gathered:
    """What came of a folder.

    Attributes:
        recordings, seconds: that are there.
        cut: recordings that were too long to be used whole.
        rows, used_seconds: of the corpus.
        transcribed: of the rows, those whose text is a recogniser's.
        recogniser: its name.
        left_out: pieces and recordings that are not in the corpus, and their seconds, by reason;
            of pieces that were cut, the seconds of speech.
    """

    recordings: int = 0
    seconds: float = 0.0
    cut: int = 0
    rows: int = 0
    used_seconds: float = 0.0
    transcribed: int = 0
    recogniser: str | None = None
    left_out: dict[str, tuple[int, float]] = field(default_factory=dict)

    def leave_out(self, reason: str, seconds: float) -> None:
        """One more."""
        count, before = self.left_out.get(reason, (0, 0.0))
        self.left_out[reason] = (count + 1, round(before + seconds, 3))

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.cut:
            yield f"{self.cut} recordings were cut at silences"
        if self.transcribed:
            yield f"{self.transcribed} texts are those of {self.recogniser}: read some of them"
        for reason, (count, seconds) in self.left_out.items():
            yield f"left out, {reason}: {count} ({seconds:.1f} seconds)"
        yield (
            f"{self.rows} rows with {self.used_seconds:.1f} seconds of {self.recordings} "
            f"recordings with {self.seconds:.1f} seconds"
        )


def gather(
    folder: Path, out: Path, recogniser: str | None = None, longest: float = LONGEST
) -> Gathered:
    """Make a corpus in `out` of the recordings in `folder`, which stays as it is.

    Args:
        folder: audio files, in folders below it too; the text of ``a.wav`` in ``a.txt``.
        out: the corpus, written anew.
        recogniser: ``package.module:function``, a `hearing.Recogniser`; its ``sample_rate`` says
            which rate it wants (default: 16,000 Hz).
        longest: seconds of a recording that is used whole.

    Raises:
        UserError: no recordings, recordings without texts, or long ones, and no recogniser.
        RunFailed: the recogniser failed.
    """
    if (out / METADATA).exists() and not (out / GATHERED).exists():
        raise UserError(f"{out} holds a corpus of yours: name another directory to write to")
    found = recordings(folder, out)
    check_texts(found, recogniser, longest)
    hear = Hearing(out / TRANSCRIPTS, recogniser) if recogniser else None
    gathered = Gathered(recordings=len(found), recogniser=recogniser)
    gathered.seconds = round(sum(f.seconds for f in found if np.isfinite(f.seconds)), 3)
    rows: list[tuple[str, str]] = []
    lengths = replace(Lengths(), most=max(longest, Lengths.longest))
    with tqdm(found, "gathering", disable=None, unit="rec", leave=False) as shown:
        for each in shown:
            if not each.seconds > longest and each.text is not None:
                rows.append((str(each.path.absolute()), each.text))
                gathered.used_seconds += each.seconds if np.isfinite(each.seconds) else 0.0
            elif hear is not None:  # else `check_texts` has refused it
                rows += _heard(each, out, hear, longest, lengths, gathered)
    gathered.rows, gathered.used_seconds = len(rows), round(gathered.used_seconds, 3)
    if not rows:
        raise UserError(f"{folder}: nothing of it can be used: {'; '.join(gathered.lines())}")
    files.write(
        {
            out / METADATA: "".join(f"{name}|{text}\n" for name, text in rows).encode(),
            out / GATHERED: (json.dumps(asdict(gathered), indent=2) + "\n").encode(),
        }
    )
    return gathered


# What is there


def recordings(folder: Path, out: Path) -> list[Found]:
    """The recordings of a folder, by name; what lies in `out` is none.

    Raises:
        UserError: there is none, or a text is no UTF-8.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a directory: expected a folder of recordings")
    paths = []
    for directory, below, names in os.walk(folder):
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(".") and not _same(Path(directory, name), out)
        )
        paths += [Path(directory, n) for n in sorted(names) if n.lower().endswith(EXTENSIONS)]
    found = [_found(folder, path) for path in paths if not path.name.startswith(".")]
    if not found:
        endings = ", ".join(EXTENSIONS)
        raise UserError(f"{folder} holds no recordings: expected files that end in {endings}")
    seen: dict[str, Path] = {}
    for each in found:
        if (other := seen.setdefault(each.name, each.path)) != each.path:
            raise UserError(f"{each.path} and {other} have one name: rename or remove one of them")
    return found


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _found(folder: Path, path: Path) -> Found:
    if any(sign in str(path.absolute()) for sign in "|\n\r"):
        raise UserError(f"{str(path)!r}: rename it: metadata.csv cannot name it")
    beside = path.with_suffix(".txt")
    text = None
    if beside.is_file():
        try:
            text = one_line(beside.read_text(encoding="utf-8-sig"))
        except (UnicodeDecodeError, OSError) as error:
            raise UserError(f"{beside}: expected a text in UTF-8: {error}") from error
    try:
        info = soundfile.info(str(path))
        seconds = info.frames / info.samplerate if info.samplerate else float("nan")
    except (soundfile.SoundFileError, OSError):
        seconds = float("nan")
    name = str(path.relative_to(folder).with_suffix(""))
    return Found(path, name, text or None, seconds)


def check_texts(found: Sequence[Found], recogniser: str | None, longest: float) -> None:
    """Refuse what no corpus can be made of without a recogniser.

    Raises:
        UserError: recordings without a text, or too long to be used whole.
    """
    if recogniser is not None:
        return
    without = [each for each in found if each.text is None]
    if without:
        raise UserError(
            f"{len(without)} of {len(found)} recordings have no text: {_names(without)}: write "
            f"what is said into {without[0].path.with_suffix('.txt').name} beside it, or name a "
            "recogniser that does: --recogniser package.module:function"
        )
    long = [each for each in found if each.seconds > longest]
    if long:
        raise UserError(
            f"{len(long)} of {len(found)} recordings are longer than {longest:g} seconds: "
            f"{_names(long)}: they can only be cut where each piece gets a text of its own: name a "
            "recogniser (--recogniser package.module:function), cut recordings and texts "
            "yourself, or use them whole with --longest SECONDS"
        )


def _names(found: Sequence[Found]) -> str:
    more = "" if len(found) <= _NAMED else ", …"
    return ", ".join(str(each.path) for each in found[:_NAMED]) + more


# What is heard


def _heard(
    each: Found,
    out: Path,
    hear: Hearing,
    longest: float,
    lengths: Lengths,
    gathered: Gathered,
) -> Iterator[tuple[str, str]]:
    """Rows of a recording whose text a recogniser says: whole, or cut."""
    try:
        audio, rate, _ = audio_files.decode(each.path, MOST_SECONDS)
    except audio_files.AudioFault as error:
        _LOGGER.warning("warning: %s: left out: %s", each.path, error)
        gathered.leave_out(UNREADABLE, 0.0)
        return
    seconds = len(audio) / rate
    cuts = cut(audio, rate, hear.vad, lengths)
    for reason, lost in cuts.left_out.items():
        for one in lost:
            gathered.leave_out(reason, one)
    if not cuts.pieces and not cuts.left_out:
        gathered.leave_out(NO_SPEECH, seconds)
    if seconds <= longest:
        pieces = [(0.0, seconds)] if cuts.pieces else []
    else:
        pieces = cuts.pieces
        gathered.cut += 1
    for number, (first, last) in enumerate(pieces, start=1):
        samples = audio_files.to_int16(audio[round(first * rate) : round(last * rate)])
        text = hear(samples, rate, f"{each.path} from {first:.1f} to {last:.1f} seconds")
        if not text:
            gathered.leave_out(NO_WORDS, last - first)
            continue
        gathered.transcribed += 1
        gathered.used_seconds += last - first
        name = str(each.path.absolute())
        if seconds > longest:
            name = f"{each.name}_{number:04d}"
            files.write({out / "wav" / f"{name}.flac": _flac(samples, rate)})
        yield name, text


def _flac(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
