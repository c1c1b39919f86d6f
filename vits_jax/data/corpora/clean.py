"""Metadata without the rows that are not used, for ``check --write-clean``."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from vits_jax.data.corpora.corpus import Row, read_lines
from vits_jax.errors import UserError


def write_lines(source: Path, lines: Collection[int], out: Path) -> None:
    """The lines of `source` with these numbers (from 1), as they are, to `out`."""
    _write(out, b"".join(line + b"\n" for number, line in read_lines(source) if number in lines))


def write_rows(input_dir: Path, rows: Collection[Row], out: Path) -> None:
    """Rows of several files as one ``metadata.csv``; recordings by path from `input_dir`."""
    lines = []
    for row in rows:
        path = row.audio_path
        name = str(path.relative_to(input_dir)) if path is not None else row.name
        columns = [name, *([row.speaker] if row.speaker is not None else []), row.text]
        if row.phoneme_ids is not None:
            columns.append(" ".join(map(str, row.phoneme_ids)))
        lines.append("|".join(columns) + "\n")
    _write(out, "".join(lines).encode())


def check_out(out: Path, sources: Collection[Path], name: str) -> Path:
    """The file that ``--write-clean`` names.

    Args:
        out: a file, or a directory, in which it is called `name`.
        sources: files that shall not be overwritten.

    Raises:
        UserError: it is one of the sources.
    """
    out = out / name if out.is_dir() else out
    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise UserError(f"--write-clean {out}: that is what is checked; name another file")
    return out


def _write(out: Path, content: bytes) -> None:
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"--write-clean {out}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
