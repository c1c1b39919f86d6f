"""``python -m vits_jax.infer``: phoneme ids, or texts, to speech."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vits_jax import files
from vits_jax.cli import Parser, run
from vits_jax.commands import foreign_flags
from vits_jax.commands.checkpoint_flags import add_checkpoint
from vits_jax.errors import UserError

if TYPE_CHECKING:
    from vits_jax.voice import Voice
    from vits_jax.voice.speech import Sentence, Spoken

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Utterance:
    """What to say into one file, and its name."""

    name: str
    sentences: list[Sentence]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = _checked(make_parser().parse(argv))
    # Imported after the flags are read: a mistyped flag is answered at once.
    import jax

    from vits_jax.compilation import use_cache
    from vits_jax.voice import load
    from vits_jax.voice.speech import Settings, joined

    use_cache()
    voice = load(flags.checkpoint, flags.voice_config, ema=flags.ema, best=flags.best)
    if flags.sample_rate not in (None, voice.sample_rate):
        raise UserError(
            f"--sample-rate {flags.sample_rate}: this voice was trained at {voice.sample_rate} Hz "
            "and speaks at no other rate: leave it out, and resample the files if need be"
        )
    settings = Settings(flags.noise_scale, flags.length_scale, flags.noise_w, flags.seed)
    voice.check_settings(settings)
    silence = voice.silence(flags.sentence_silence)
    utterances = _read(flags, voice)
    output = None if flags.output_dir is None else Path(flags.output_dir)
    if output is not None:
        files.check_writable(output)

    batch_size = flags.batch_size or (1 if jax.default_backend() == "cpu" else 16)
    start, seconds = time.perf_counter(), 0.0
    for group in _groups(utterances, batch_size):
        sentences = [sentence for utterance in group for sentence in utterance.sentences]
        spoken = iter(voice.speak(sentences, settings, batch_size))
        for utterance in group:
            parts = [next(spoken) for _ in utterance.sentences]
            audio = joined([part.audio for part in parts], silence)
            seconds += len(audio) / voice.sample_rate
            path = None if output is None else output / f"{utterance.name}.wav"
            _write(audio, path, flags.sample_format, voice.sample_rate)
            length = len(audio) / voice.sample_rate
            _LOGGER.info("%s: %.2f s of speech", path or f"utterance {utterance.name}", length)
            if flags.json:
                print(json.dumps(_timing(utterance, parts, path, silence, voice)), flush=True)
    taken = time.perf_counter() - start
    _LOGGER.info(
        "%d utterances, %.2f s of speech in %.2f s, compiling included: real-time factor %.3f",
        len(utterances),
        seconds,
        taken,
        taken / seconds,
    )


def _checked(flags: Namespace) -> Namespace:
    others = foreign_flags.OTHERS_OF_INFER
    for name in vars(flags).keys() & others.keys():
        where = f"--{name.replace('_', '-')}"
        foreign_flags.refuse(name, getattr(flags, name), where, others)
    if flags.text is not None and not flags.text.strip():
        raise UserError("--text is empty: expected what to say")
    if flags.text is not None and flags.phoneme_ids is not None:
        raise UserError("--text and --phoneme-ids: expected one of the two")
    if (flags.output_dir is None) != flags.output_raw:
        raise UserError("expected one of --output-dir DIR and --output-raw")
    if flags.output_raw and flags.json:
        raise UserError(
            "--json and --output-raw both write to stdout: use --output-dir with --json"
        )
    if flags.batch_size is not None and flags.batch_size < 1:
        raise UserError(f"--batch-size {flags.batch_size}: expected at least 1")
    return flags


def _read(flags: Namespace, voice: Voice) -> list[Utterance]:
    """All that is to be said, checked before the first of it is spoken."""
    if flags.text is not None:
        entry = {"text": flags.text}
    elif flags.phoneme_ids is not None:
        ids = flags.phoneme_ids.replace(",", " ").split()
        if not all(word.removeprefix("-").isdecimal() for word in ids):
            raise UserError(f"--phoneme-ids {flags.phoneme_ids!r}: expected whole numbers")
        entry = {"phoneme_ids": [int(word) for word in ids]}
    else:
        return read_lines(sys.stdin, voice, flags.speaker)
    return [_utterance("0", "", entry, voice, flags.speaker)]


def read_lines(
    lines: Iterable[str], voice: Voice, speaker: str | int | None = None
) -> list[Utterance]:
    """Utterances from JSON lines.

    Args:
        lines: each a JSON object with ``phoneme_ids`` or ``text`` and, where the voice has
            several speakers, ``speaker_id`` or ``speaker``; other keys are not looked at, so
            lines of a ``dataset.jsonl`` will do. Blank lines are passed over.
        speaker: who speaks the lines that do not say who.

    Returns:
        One utterance a line, named by the line's number from 0, as Piper names them.

    Raises:
        UserError: a line cannot be spoken, or there is none.
    """
    utterances, named = [], set[str]()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        where = f"stdin:{number + 1}: "
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}broken JSON: {error.msg} (column {error.colno})") from error
        if not isinstance(entry, dict):
            raise UserError(f"{where}expected a JSON object, got {type(entry).__name__}")
        if "phoneme_ids" not in entry and not isinstance(entry.get("text"), str):
            raise UserError(f"{where}no key 'phoneme_ids' (a list of whole numbers), nor 'text'")
        if _speaker(entry) is not None:
            named.add(str(_speaker(entry)))
        utterances.append(_utterance(str(number), where, entry, voice, speaker))
    if not utterances:
        raise UserError("stdin: no lines: expected JSON lines with phoneme_ids or text, or --text")
    if voice.config.model.num_speakers == 1 and len(named) > 1:
        _LOGGER.warning(
            "stdin names %d speakers, this voice has one: it speaks every line", len(named)
        )
    return utterances


def _speaker(entry: dict[str, Any]) -> Any:
    """Who a line says speaks it, by id or else by name; None where it does not say."""
    number = entry.get("speaker_id")
    return entry.get("speaker") if number is None else number


def _utterance(
    name: str, where: str, entry: dict[str, Any], voice: Voice, speaker: str | int | None
) -> Utterance:
    if voice.config.model.num_speakers > 1 and _speaker(entry) is not None:
        speaker = _speaker(entry)  # of one speaker a voice knows no name, though its dataset did
    try:
        if "phoneme_ids" in entry:
            return Utterance(name, [voice.sentence(entry["phoneme_ids"], speaker)])
        sentences, missing = voice.phonemize(entry["text"])
        spoken = [voice.sentence(ids, speaker) for ids in sentences]
    except UserError as error:
        raise UserError(f"{where}{error}") from error
    if missing:
        symbols = ", ".join(f"{symbol!r} ({count})" for symbol, count in missing.items())
        _LOGGER.warning("%snot in this voice's phoneme map, left out: %s", where, symbols)
    return Utterance(name, spoken)


def _groups(utterances: list[Utterance], batch_size: int) -> Iterator[list[Utterance]]:
    """Utterances that are spoken together: enough to find batches of similar length in."""
    most = 1 if batch_size == 1 else 8 * batch_size
    group: list[Utterance] = []
    for utterance in utterances:
        group.append(utterance)
        if sum(len(each.sentences) for each in group) >= most:
            yield group
            group = []
    if group:
        yield group


def _write(audio: np.ndarray, path: Path | None, sample_format: str, rate: int) -> None:
    """To a WAV file or, without one, as raw samples to stdout."""
    import soundfile

    from vits_jax.voice.speech import to_int16

    samples = audio if sample_format == "float32" else to_int16(audio)
    if path is None:
        sys.stdout.buffer.write(samples.tobytes())
        sys.stdout.buffer.flush()
        return
    content = io.BytesIO()
    subtype = "FLOAT" if sample_format == "float32" else "PCM_16"
    soundfile.write(content, samples, rate, format="WAV", subtype=subtype)
    files.write({path: content.getvalue()})


def _timing(
    utterance: Utterance, parts: list[Spoken], path: Path | None, silence: int, voice: Voice
) -> dict[str, Any]:
    """When each phoneme is spoken, for ``--json``."""
    hop, rate = voice.config.audio.hop_length, voice.sample_rate
    phoneme_map = voice.dataset.get("phoneme_id_map") or {}
    symbols = {ids[0]: symbol for symbol, ids in phoneme_map.items() if len(ids) == 1}
    phonemes, at = [], 0  # samples
    for sentence, part in zip(utterance.sentences, parts):
        for number, frames in zip(sentence.phoneme_ids.tolist(), part.durations.tolist()):
            phonemes.append(
                {
                    "phoneme": symbols.get(number),
                    "id": number,
                    "start": at / rate,
                    "seconds": frames * hop / rate,
                    "frames": frames,
                }
            )
            at += frames * hop
        at += silence
    return {
        "name": utterance.name,
        "file": str(path),
        "seconds": (at - silence) / rate,
        "speaker_id": utterance.sentences[0].speaker_id,
        "phonemes": phonemes,
    }


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("infer", "Turn a text, phoneme ids, or JSON lines from stdin into speech.")
    add_checkpoint(parser)
    parser.add_argument("--output-dir", help="directory to write 0.wav, 1.wav, ... into")
    parser.add_argument(
        "--output-raw",
        action="store_true",
        help="write raw samples to stdout instead of files (for aplay)",
    )
    parser.add_argument(
        "--sample-format",
        choices=["int16", "float32"],
        default="int16",
        help="int16: scaled, the loudest sample at full scale; float32: as the model gives it "
        "(default: int16)",
    )
    parser.add_argument("--text", help="text to speak (needs vits_jax[preprocess])")
    parser.add_argument(
        "--phoneme-ids",
        metavar="IDS",
        help='phoneme ids to speak, separated by spaces: "1 0 20 0 2"',
    )
    parser.add_argument(
        "--speaker",
        "--speaker-id",
        metavar="NAME|ID",
        help="speaker, by name or id, for input that names none (default: 0)",
    )
    parser.add_argument(
        "--noise-scale",
        type=float,
        default=0.667,
        help="how much the sound varies; 0: not at all (default: 0.667)",
    )
    parser.add_argument(
        "--length-scale",
        type=float,
        default=1.0,
        help="how long phonemes last; above 1 is slower (default: 1)",
    )
    parser.add_argument(
        "--noise-w",
        "--noise-w-scale",
        type=float,
        default=0.8,
        help="how much durations vary; 0: not at all (default: 0.8)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random numbers (default: 0)"
    )
    parser.add_argument(
        "--sentence-silence",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="silence to put between the sentences of a text (default: 0)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="sentences to speak at once, of similar length (default: 1 on CPU, else 16)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON line for each file: when each phoneme is spoken",
    )
    # The old trainer's, which wrote it into the files whatever the voice was.
    parser.add_argument("--sample-rate", type=int, help=SUPPRESS)
    foreign_flags.add_others(parser, foreign_flags.OTHERS_OF_INFER)
    return parser
