"""``python -m vits_jax.voice_conversion``: a recording in another speaker's voice."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

from vits_jax import files
from vits_jax.cli import Parser, run
from vits_jax.commands.checkpoint_flags import add_checkpoint
from vits_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    flags = make_parser().parse(argv)
    source, target = Path(flags.input), Path(flags.output)
    files.check_writable(target.parent)
    # Imported after the flags are read: a mistyped flag is answered at once.
    import soundfile

    from vits_jax.compilation import use_cache
    from vits_jax.data.corpora.audio_files import AudioFault, decode, resample
    from vits_jax.voice import load
    from vits_jax.voice.speech import to_int16

    try:
        audio, rate, _ = decode(source)
    except AudioFault as fault:
        raise UserError(f"{source}: {fault}") from fault
    use_cache()
    voice = load(flags.checkpoint, flags.voice_config, ema=flags.ema, best=flags.best)
    audio = resample(audio, rate, voice.sample_rate)
    converted = voice.convert(audio, flags.from_speaker, flags.to_speaker, flags.seed)
    content = io.BytesIO()
    soundfile.write(content, to_int16(converted), voice.sample_rate, format="WAV", subtype="PCM_16")
    files.write({target: content.getvalue()})
    _LOGGER.info("%s: %.2f s of speech", target, len(converted) / voice.sample_rate)


def make_parser() -> Parser:
    """Of its flags."""
    parser = Parser("voice_conversion", "Say what one speaker said with another's voice.")
    add_checkpoint(parser)
    parser.add_argument(
        "--from-speaker", required=True, metavar="NAME|ID", help="the speaker of IN.wav"
    )
    parser.add_argument(
        "--to-speaker", required=True, metavar="NAME|ID", help="the speaker whose voice OUT.wav has"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random numbers (default: 0)"
    )
    parser.add_argument("input", metavar="IN.wav", help="recording, at any sample rate")
    parser.add_argument(
        "output", metavar="OUT.wav", help="file to write, at the voice's sample rate"
    )
    return parser
