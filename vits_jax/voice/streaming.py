"""Playing a voice while it is still being spoken: a reference player for the streaming pair.

The encoder gives all latent frames of a text, the decoder turns any stretch of them into
audio. It reaches over a few frames on each side only, so stretches that overlap by so much
give the samples that all frames at once would give.

::

    python -m vits_jax.voice.streaming voice.onnx --text "Hello." | aplay -r 22050 -f S16_LE -t raw
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from vits_jax.cli import Parser, run
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.text import make_phonemizer, phonemes_to_ids
from vits_jax.voice.graph import Names
from vits_jax.voice.verify import feed, session

FIRST_FRAMES, MOST_FRAMES = 8, 256  # of a chunk: the first is short, each next twice as long
MARGIN, HOP = "margin_frames", "hop_length"  # in the decoder's metadata


def streaming_pair(voice: Path) -> dict[str, Path]:
    """Where the two halves of ``voice.onnx`` lie: ``voice.streaming/``.

    Not beside it: servers take every ``.onnx`` in a directory for a voice.
    """
    directory = voice.with_suffix(".streaming")
    return {part: directory / f"{part}.onnx" for part in ("encoder", "decoder")}


def margin(config: Config) -> int:
    """Frames on each side of a stretch that the decoder hears."""
    model = config.model
    reach = 3  # conv_post's, in samples; on the way in, in those of each stage
    blocks = [
        sum(d * (k - 1) // 2 + ((k - 1) // 2 if model.resblock == "1" else 0) for d in dilations)
        for k, dilations in zip(model.resblock_kernel_sizes, model.resblock_dilation_sizes)
    ]
    for rate, k in zip(model.upsample_rates[::-1], model.upsample_kernel_sizes[::-1]):
        reach += max(blocks)
        reach = -(-(reach + k - 1 - (k - rate) // 2) // rate)
    return reach + 3  # conv_pre's


@dataclass(frozen=True)
class FirstAudio:
    """How soon the first samples of a sentence are there; medians, in seconds."""

    first: float
    first_cpu: float  # of which the processor was this process's
    streamed: float  # until the last chunk
    whole: float  # for the voice in one piece
    whole_cpu: float
    speech: float  # length of the sentence
    difference: float  # largest, between the chunks' samples and the whole's

    def __str__(self) -> str:
        return (
            f"{self.speech:.1f} s of speech: first audio after {self.first:.3f} s, all after "
            f"{self.streamed:.3f} s (real-time factor {self.streamed / self.speech:.3f}); "
            f"in one piece {self.whole:.3f} s"
        )


class Player:
    """The two halves of a voice in onnxruntime."""

    def __init__(
        self, encoder: onnxruntime.InferenceSession, decoder: onnxruntime.InferenceSession
    ):
        self.encoder, self.decoder = encoder, decoder
        metadata = decoder.get_modelmeta().custom_metadata_map
        self.margin, self.hop = int(metadata[MARGIN]), int(metadata[HOP])
        self.n_speakers = int(metadata["n_speakers"])

    @classmethod
    def load(cls, voice: str | Path) -> Player:
        """The pair of ``voice.onnx``.

        Raises:
            UserError: it is not there, or is no such pair.
        """
        sessions = []
        for path in streaming_pair(Path(voice)).values():
            try:
                sessions.append(session(onnx.load(path)))
            except OSError as error:
                raise UserError(
                    f"{path}: {error.strerror}: export the voice with --streaming"
                ) from error
        return cls(*sessions)

    def latent(
        self,
        ids: np.ndarray,
        speaker: int = 0,
        scales: tuple[float, float, float] = (0.667, 1, 0.8),
    ) -> np.ndarray:
        """Latent frames ``[1, C, F]`` of ``ids [P]``; `scales` are noise, length, noise_w."""
        return self.encoder.run([Names.LATENT], feed(ids, speaker, self.n_speakers, scales))[0]

    def decode(self, z: np.ndarray, speaker: int = 0) -> np.ndarray:
        """Audio ``[F * hop]`` of latent frames."""
        inputs = {Names.LATENT: z}
        if self.n_speakers > 1:
            inputs[Names.SPEAKER] = np.asarray([speaker], np.int64)
        return self.decoder.run([Names.AUDIO], inputs)[0][0, 0, 0]

    def chunks(self, z: np.ndarray, speaker: int = 0) -> Iterator[np.ndarray]:
        """The audio of all frames of ``z [1, C, F]``, piece by piece."""
        start, size, n_frames = 0, FIRST_FRAMES, z.shape[2]
        while start < n_frames:
            end = min(start + size, n_frames)
            left, right = max(start - self.margin, 0), min(end + self.margin, n_frames)
            audio = self.decode(z[:, :, left:right], speaker)
            yield audio[(start - left) * self.hop : (end - left) * self.hop]
            start, size = end, min(2 * size, MOST_FRAMES)


def time_first_audio(
    player: Player, voice: onnxruntime.InferenceSession, ids: np.ndarray, seconds: float, rate: int
) -> FirstAudio:
    """Stream a sentence and speak it in one piece, in turns, without noise.

    Args:
        ids: what to say, ``[P]``.
        seconds: about how long it should become, by its length scale.
        rate: samples per second.
    """
    frames = player.latent(ids, 0, (0.0, 1.0, 0.0)).shape[2]
    scales = (0.0, seconds * rate / player.hop / frames, 0.0)
    pieces: list[np.ndarray] = []
    times = []
    for _ in range(5):
        start, start_cpu = time.perf_counter(), time.process_time()
        chunks = player.chunks(player.latent(ids, 0, scales))
        pieces = [next(chunks)]
        first, first_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        pieces += chunks
        streamed = time.perf_counter() - start
        start, start_cpu = time.perf_counter(), time.process_time()
        whole = voice.run([Names.AUDIO], feed(ids, 0, player.n_speakers, scales))[0][0, 0, 0]
        whole_cpu = time.process_time() - start_cpu
        times.append((first, first_cpu, streamed, time.perf_counter() - start, whole_cpu))
    joined = np.concatenate(pieces)
    same = joined.shape == whole.shape
    medians = np.median(times[1:], axis=0).tolist()  # the first is to warm up
    return FirstAudio(
        **dict(zip(("first", "first_cpu", "streamed", "whole", "whole_cpu"), medians)),
        speech=len(joined) / rate,
        difference=float(np.abs(joined - whole).max()) if same else float("inf"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = Parser("voice.streaming", "Speak a text while it is being computed.")
    parser.add_argument("voice", metavar="VOICE.onnx", help="exported with --streaming")
    parser.add_argument("--text", required=True, help="what to say")
    parser.add_argument("--speaker-id", type=int, default=0, help="who says it (default: 0)")
    flags = parser.parse(argv)
    player = Player.load(flags.voice)
    if not 0 <= flags.speaker_id < player.n_speakers:
        raise UserError(f"--speaker-id {flags.speaker_id}: expected 0 to {player.n_speakers - 1}")
    config = json.loads(Path(f"{flags.voice}.json").read_text(encoding="utf-8"))
    phonemize = make_phonemizer(config["phoneme_type"], config["espeak"]["voice"])
    inference, rate = config["inference"], config["audio"]["sample_rate"]
    scales = tuple(inference[name] for name in ("noise_scale", "length_scale", "noise_w"))
    start, first, samples = time.perf_counter(), 0.0, 0
    for sentence in phonemize(flags.text):
        ids, unknown = phonemes_to_ids([sentence], config["phoneme_id_map"])
        if unknown.total() == len(sentence):
            continue
        for piece in player.chunks(player.latent(np.asarray(ids), flags.speaker_id, scales)):
            sys.stdout.buffer.write((np.clip(piece, -1, 1) * 32767).astype(np.int16).tobytes())
            sys.stdout.buffer.flush()
            first = first or time.perf_counter() - start
            samples += len(piece)
    if not samples:
        raise UserError(f"{flags.text!r}: nothing in it that this voice can say")
    taken, speech = time.perf_counter() - start, samples / rate
    print(
        f"first audio after {first:.3f} s; {speech:.2f} s of speech in {taken:.3f} s: "
        f"real-time factor {taken / speech:.3f}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
