"""``python -m vits_jax.infer``: phoneme ids, or text, to WAV files."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vits_jax.cli import Parser, run
from vits_jax.errors import UserError

if TYPE_CHECKING:
    from vits_jax.voice import Voice

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """What to say: the name of its file, and the line it came from, for messages."""

    name: str
    where: str
    phoneme_ids: list[int]
    speaker_id: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = _parser().parse(argv)
    if flags.text is None and flags.speaker_id is not None:
        raise UserError("--speaker-id goes with --text: JSON lines have a speaker_id of their own")
    if flags.text is not None and not flags.text.strip():
        raise UserError("--text is empty: expected what to say")
    # Imported after the flags are read: a mistyped flag is answered at once.
    import soundfile

    from vits_jax.compilation import use_cache
    from vits_jax.voice import load
    from vits_jax.voice.speech import to_int16

    use_cache()
    voice = load(flags.checkpoint)
    scales = {name: getattr(flags, name) for name in ("noise_scale", "length_scale", "noise_w")}
    voice.check_settings(**scales, seed=flags.seed)
    if flags.text is None:
        utterances = read_lines(sys.stdin, voice)
    else:
        utterances = [_of_text(flags.text, flags.speaker_id, voice)]
    output = Path(flags.output_dir)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {output}: cannot be made: {error.strerror}") from error
    for utterance in utterances:
        start = time.perf_counter()
        audio = voice.synthesize(
            utterance.phoneme_ids, utterance.speaker_id, **scales, seed=flags.seed
        )
        path = output / f"{utterance.name}.wav"
        soundfile.write(path, to_int16(audio), voice.sample_rate, subtype="PCM_16")
        taken, seconds = time.perf_counter() - start, len(audio) / voice.sample_rate
        _LOGGER.info("%s: %.2f s of speech in %.2f s", path, seconds, taken)


def read_lines(lines: Iterable[str], voice: Voice) -> list[Utterance]:
    """Utterances from JSON lines, all checked before the first is spoken.

    Args:
        lines: each a JSON object with ``phoneme_ids`` and, of several speakers,
            ``speaker_id``; other keys are not looked at, so lines of a ``dataset.jsonl``
            will do. Blank lines are passed over.

    Returns:
        One utterance a line, named by the line's number from 0, as Piper names them.

    Raises:
        UserError: a line cannot be spoken, or there is none.
    """
    utterances = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        where = f"stdin:{number + 1}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: broken JSON: {error.msg} (column {error.colno})") from error
        if not isinstance(entry, dict):
            raise UserError(f"{where}: expected a JSON object, got {type(entry).__name__}")
        if "phoneme_ids" not in entry:
            raise UserError(f"{where}: no key 'phoneme_ids' (a list of whole numbers)")
        utterances.append(_checked(str(number), where, entry, voice))
    if not utterances:
        raise UserError("stdin: no lines: expected JSON lines with phoneme_ids, or --text")
    return utterances


def _checked(name: str, where: str, entry: dict[str, Any], voice: Voice) -> Utterance:
    ids, speaker = entry["phoneme_ids"], entry.get("speaker_id")
    try:
        voice.check(ids, speaker)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Utterance(name, where, ids, speaker)


def _of_text(text: str, speaker_id: int | None, voice: Voice) -> Utterance:
    ids, missing = voice.phonemize(text)
    if missing:
        _LOGGER.warning("not in this voice's phoneme map, left out: %s", " ".join(missing))
    return _checked("0", "--text", {"phoneme_ids": ids, "speaker_id": speaker_id}, voice)


def _parser() -> Parser:
    parser = Parser("infer", "Speak JSON lines from stdin, or a text, into WAV files.")
    parser.add_argument(
        "--checkpoint", required=True, help="run directory (its latest step) or one step of it"
    )
    parser.add_argument("--output-dir", required=True, help="where 0.wav, 1.wav, ... are written")
    parser.add_argument("--text", help="speak this instead (needs vits_jax[preprocess])")
    parser.add_argument("--speaker-id", type=int, help="who speaks --text (default: 0)")
    parser.add_argument(
        "--noise-scale", type=float, default=0.667, help="variation of the sound (default: 0.667)"
    )
    parser.add_argument(
        "--length-scale", type=float, default=1.0, help="above 1 is slower (default: 1)"
    )
    parser.add_argument(
        "--noise-w", type=float, default=0.8, help="variation of the durations (default: 0.8)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that variation (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
