"""A corpus on disk to rows of (audio file, speaker, text)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vits_jax.data.corpora.audio_files import is_file
from vits_jax.data.unusable import LeftOut
from vits_jax.errors import UserError

DATASET, LJSPEECH, MYCROFT = "dataset", "ljspeech", "mycroft"
"""What a directory may hold: what `preprocess` wrote, or a corpus in one of its formats."""

EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_BOM = b"\xef\xbb\xbf"
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16, either order


@dataclass(frozen=True)
class Row:
    """One utterance of a corpus, nothing of its audio checked but that the file is there.

    Attributes:
        where: file and line, such as ``metadata.csv:12``.
        name: the utterance's id, as the corpus writes it.
        text: what is spoken.
        speaker: the speaker's name; None where the corpus names none.
        audio_path: the recording; None only where none is needed.
        phoneme_ids: ready-made ids, where the corpus has them.
    """

    where: str
    name: str
    text: str
    speaker: str | None
    audio_path: Path | None
    phoneme_ids: list[int] | None = None


@dataclass
class Corpus:
    """What a corpus holds: rows to use, rows that cannot be used, and things worth knowing."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Rows of the corpus, used or not."""
        return len(self.rows) + len(self.left_out)


def read_corpus(
    input_dir: Path,
    dataset_format: str,
    single_speaker: bool = False,
    *,
    phoneme_ids: bool = False,
    need_audio: bool = True,
) -> Corpus:
    """Read a corpus's metadata; no header, no quoting.

    Piper reads it with CSV quoting, where a stray ``"`` swallows the rows after it; here
    a quote is a character like any other, and lines that quoting would change are noted.

    Args:
        input_dir: the corpus.
        dataset_format: ``ljspeech``: ``metadata.csv`` with ``id|text`` or ``id|speaker|text``,
          recordings beside it, in ``wav/`` or in ``wavs/``; ``mycroft``: any number of
          ``*-metadata.txt`` below, with ``file|text|length``, recordings beside each, and the
          folder's name is the speaker's. Recordings are named with or without extension.
        single_speaker: ignore what names a speaker (LJ Speech's own second column is text).
        phoneme_ids: a last column holds phoneme ids, separated by spaces.
        need_audio: leave out rows without a recording.

    Raises:
        UserError: no such directory or file, or it is not UTF-8 at all.
    """
    if not input_dir.is_dir():
        raise UserError(f"{input_dir} is not a directory: --input-dir names the corpus")
    reader = _Reader(input_dir, phoneme_ids=phoneme_ids, need_audio=need_audio)
    if dataset_format == "mycroft":
        paths = metadata_files(input_dir)
        if not paths:
            raise UserError(f"{input_dir} holds no *-metadata.txt: a mycroft corpus has them")
        for path in paths:
            reader.mycroft(path, None if single_speaker else path.parent.resolve().name)
    else:
        path = input_dir / "metadata.csv"
        if not path.is_file():
            raise UserError(
                f"{path} does not exist: an ljspeech corpus has it beside wav/ or wavs/"
            )
        reader.ljspeech(path, single_speaker)
    return reader.corpus


def read_ljspeech(input_dir: Path, single_speaker: bool = False) -> Corpus:
    """`read_corpus` of an ljspeech corpus."""
    return read_corpus(input_dir, "ljspeech", single_speaker)


def kind_of(directory: Path) -> str:
    """A prepared directory, or a corpus of which format, by the files that are there.

    Raises:
        UserError: it is none of them.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: expected a corpus, or a prepared one")
    if (directory / "dataset.jsonl").is_file() or (directory / "config.json").is_file():
        return DATASET
    if (directory / "metadata.csv").is_file():
        return LJSPEECH
    if metadata_files(directory):
        return MYCROFT
    raise UserError(
        f"{directory} holds no dataset.jsonl (a prepared directory), no metadata.csv (ljspeech) "
        "and no *-metadata.txt (mycroft)"
    )


def metadata_files(input_dir: Path) -> list[Path]:
    """Every ``*-metadata.txt`` of a mycroft corpus, sorted."""
    # `os.walk`, unlike `**`, neither follows links in circles nor fails where it may not look.
    bucket: Any = input_dir
    walk = bucket.walk() if "://" in str(input_dir) else os.walk(input_dir)
    as_path = type(input_dir)  # what is walked begins with `input_dir`, relative ones too
    return sorted(
        as_path(folder) / name
        for folder, _, names in walk
        for name in names
        if name.endswith("-metadata.txt")
    )


@dataclass
class _Reader:
    """Rows of a corpus, as they are read."""

    input_dir: Path
    phoneme_ids: bool
    need_audio: bool
    corpus: Corpus = field(default_factory=Corpus)

    def ljspeech(self, path: Path, single_speaker: bool) -> None:
        parsed: list[tuple[_Line, str | None, str]] = []
        for line in self._lines(path):
            columns, ids = line.columns, self.phoneme_ids
            least = 3 if ids else 2
            speaker = columns[1] if len(columns) > least and not single_speaker else None
            text = columns[-2] if ids and len(columns) > 1 else columns[-1]
            if len(columns) < least:
                kind = "one column" if len(columns) == 1 else "two columns"
                end = "|phoneme ids" if ids else ""
                line.leave_out(kind, f"expected id|text{end} or id|speaker|text{end}")
            elif speaker is not None and not speaker.strip():
                line.leave_out("no speaker", "the second column is empty")
            elif self._has_text(line, text, "last but one" if ids else "last"):
                parsed.append((line, speaker, text))
                self._note(line, most=least + 1, text="last but one" if ids else "last")
        has_speakers = any(speaker is not None for _, speaker, _ in parsed)
        folders = (self.input_dir, self.input_dir / "wav", self.input_dir / "wavs")
        for line, speaker, text in parsed:
            if has_speakers and speaker is None and not single_speaker:
                line.leave_out("no speaker", "two columns, where other rows have three")
            else:
                place = "beside metadata.csv, in wav/ or in wavs/"
                self._add(line, text, speaker, folders, place)

    def mycroft(self, path: Path, speaker: str | None) -> None:
        for line in self._lines(path):
            least = 3 if self.phoneme_ids else 2
            if len(line.columns) < least:
                end = "|phoneme ids" if self.phoneme_ids else "|length"
                kind = "one column" if len(line.columns) == 1 else "two columns"
                line.leave_out(kind, f"expected file|text{end}")
            elif self._has_text(line, line.columns[1], "second"):
                self._note(line, most=3, text="second")
                self._add(line, line.columns[1], speaker, (path.parent,), f"beside {path.name}")

    def _lines(self, path: Path) -> Iterator[_Line]:
        """Lines that can be read and name a recording."""
        shown = path.relative_to(self.input_dir)
        for number, raw in read_lines(path):
            line = _Line(f"{shown}:{number}", [""], self.corpus.left_out)
            try:
                decoded = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                line.columns = [raw.partition(b"|")[0].decode("utf-8", "backslashreplace")]
                line.leave_out("not UTF-8", f"byte {error.start + 1} of the line")
                continue
            line.columns = decoded.split("|")
            if "\0" in decoded:
                line.leave_out("holds a NUL byte")
            elif len(line.columns) > 1 and not line.name.strip():
                line.leave_out("no id", "the first column is empty")
            else:
                yield line

    def _has_text(self, line: _Line, text: str, column: str) -> bool:
        if not text.strip():
            line.leave_out("no text", f"the {column} column is empty")
        return bool(text.strip())

    def _note(self, line: _Line, most: int, text: str) -> None:
        # CSV takes a quote for syntax only where it begins a column.
        if any(column.startswith('"') for column in line.columns):
            note = "quotes are kept as text; CSV quoting would have changed this row"
            self.corpus.notes.append(f"{line.where}: {line.name}: {note}")
        if len(line.columns) > most:
            note = f"{len(line.columns)} columns, the {text} is taken as the text"
            self.corpus.notes.append(f"{line.where}: {line.name}: {note}")

    def _add(
        self, line: _Line, text: str, speaker: str | None, folders: Iterable[Path], place: str
    ) -> None:
        ids = None
        if self.phoneme_ids:
            words = line.columns[-1].split()
            wrong = next((word for word in words if not _INTEGER.fullmatch(word)), None)
            if wrong is not None:
                line.leave_out("bad phoneme ids", f"{wrong!r}, expected whole numbers and spaces")
                return
            if not words:
                line.leave_out("bad phoneme ids", "the last column is empty")
                return
            ids = [int(word) for word in words]
        audio_path = _find_audio(folders, line.name)
        if audio_path is None and self.need_audio:
            line.leave_out("no audio", f"no such file {place}")
        else:
            row = Row(line.where, line.name, text, speaker, audio_path, ids)
            self.corpus.rows.append(row)


@dataclass
class _Line:
    """A line's columns, and where to name it if it cannot be used."""

    where: str
    columns: list[str]
    left_out: list[LeftOut]

    @property
    def name(self) -> str:
        return self.columns[0]

    def leave_out(self, kind: str, detail: str = "") -> None:
        name = self.name.replace("\0", "\\0") or "(no id)"
        reason = f"{kind}: {detail}" if detail else kind
        self.left_out.append(LeftOut(self.where, name, kind, reason))


def speaker_ids(speakers: Iterable[str]) -> dict[str, int]:
    """Ids of the speakers of some utterances: most utterances first, ties by first mention."""
    counts = Counter(speakers)
    return {speaker: index for index, (speaker, _) in enumerate(counts.most_common())}


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line that is not blank, without BOM and line end.

    Raises:
        UserError: the file is UTF-16.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                if line.startswith(_OTHER_BOMS):
                    raise UserError(f"{path} is UTF-16: save it as UTF-8")
                line = line.removeprefix(_BOM)
            line = line.rstrip(b"\r\n")
            if line.strip():
                yield number, line


def _find_audio(folders: Iterable[Path], name: str) -> Path | None:
    for folder in folders:
        for extension in ("", *EXTENSIONS):
            candidate = folder / f"{name}{extension}"
            if is_file(candidate):
                return candidate
    return None
