"""A corpus on disk to rows of (audio file, speaker, text)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vits_jax.data.audio_files import is_file
from vits_jax.data.left_out import LeftOut
from vits_jax.errors import UserError

_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")  # UTF-16, either order


@dataclass(frozen=True)
class Row:
    """One utterance of a corpus, nothing of its audio checked but that the file is there.

    Attributes:
      where: file and line, such as ``metadata.csv:12``.
      name: the utterance's id, as the corpus writes it.
      text: what is spoken.
      speaker: the speaker's name; None where the corpus names none.
      audio_path: the recording.
    """

    where: str
    name: str
    text: str
    speaker: str | None
    audio_path: Path


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


def read_ljspeech(input_dir: Path, single_speaker: bool = False) -> Corpus:
    """Read ``metadata.csv``: ``id|text`` or ``id|speaker|text``, no header, no quoting.

    Piper reads it with CSV quoting, where a stray ``"`` swallows the rows after it; here
    a quote is a character like any other, and lines that quoting would change are noted.

    Args:
      input_dir: holds ``metadata.csv``; the recordings lie beside it, in ``wav/`` or in
        ``wavs/``, named with or without ``.wav``.
      single_speaker: the second of three columns is no speaker (LJ Speech's own layout).

    Raises:
      UserError: no such directory or file, or it is not UTF-8 at all.
    """
    path = input_dir / "metadata.csv"
    if not input_dir.is_dir():
        raise UserError(f"{input_dir} is not a directory: --input-dir names the corpus")
    if not path.is_file():
        raise UserError(f"{path} does not exist: an ljspeech corpus has it beside wav/ or wavs/")
    corpus = Corpus()
    parsed: list[tuple[str, str, str | None, str]] = []
    for number, line in _lines(path):
        where = f"{path.name}:{number}"

        def leave_out(name: str, kind: str, detail: str = "", where: str = where) -> None:
            corpus.left_out.append(
                LeftOut(where, name, kind, f"{kind}: {detail}" if detail else kind)
            )

        try:
            decoded = line.decode("utf-8")
        except UnicodeDecodeError as error:
            shown = line.partition(b"|")[0].decode("utf-8", "backslashreplace")
            leave_out(shown, "not UTF-8", f"byte {error.start + 1} of the line")
            continue
        columns = decoded.split("|")
        name, text = columns[0], columns[-1]
        speaker = columns[1] if len(columns) > 2 and not single_speaker else None
        if "\0" in decoded:
            leave_out(name.replace("\0", "\\0"), "holds a NUL byte")
        elif len(columns) < 2:
            leave_out(name, "one column", "expected id|text or id|speaker|text")
        elif not name.strip():
            leave_out("(no id)", "no id", "the first column is empty")
        elif not text.strip():
            leave_out(name, "no text", "the last column is empty")
        elif speaker is not None and not speaker.strip():
            leave_out(name, "no speaker", "the second column is empty")
        else:
            parsed.append((where, name, speaker, text))
            corpus.notes += (f"{where}: {name}: {note}" for note in _oddities(columns))
    has_speakers = any(speaker is not None for _, _, speaker, _ in parsed)
    for where, name, speaker, text in parsed:
        audio_path = _find_audio(input_dir, name)
        if has_speakers and speaker is None and not single_speaker:
            reason = "no speaker: two columns, where other rows have three"
            corpus.left_out.append(LeftOut(where, name, "no speaker", reason))
        elif audio_path is None:
            reason = "no audio: no such file beside metadata.csv, in wav/ or in wavs/"
            corpus.left_out.append(LeftOut(where, name, "no audio", reason))
        else:
            corpus.rows.append(Row(where, name, text, speaker, audio_path))
    return corpus


def speaker_ids(speakers: Iterable[str]) -> dict[str, int]:
    """Ids of the speakers of some utterances: most utterances first, ties by first mention."""
    counts = Counter(speakers)
    return {speaker: index for index, (speaker, _) in enumerate(counts.most_common())}


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line that is not blank, without BOM and line end."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                if line.startswith(_OTHER_BOMS):
                    raise UserError(f"{path} is UTF-16: save it as UTF-8")
                line = line.removeprefix(_BOM)
            line = line.rstrip(b"\r\n")
            if line.strip():
                yield number, line


def _oddities(columns: list[str]) -> Iterator[str]:
    # CSV takes a quote for syntax only where it begins a column.
    if any(column.startswith('"') for column in columns):
        yield "quotes are kept as text; CSV quoting would have changed this row"
    if len(columns) > 3:
        yield f"{len(columns)} columns, the last is taken as the text"


def _find_audio(input_dir: Path, name: str) -> Path | None:
    for folder in (input_dir, input_dir / "wav", input_dir / "wavs"):
        for candidate in (folder / name, folder / f"{name}.wav"):
            if is_file(candidate):
                return candidate
    return None
