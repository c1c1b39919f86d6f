"""What a new voice begins with: a published voice, a ``.ckpt``, or a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vits_jax.checkpoints import store
from vits_jax.checkpoints.piper import reading as piper
from vits_jax.checkpoints.voices import onnx_voice
from vits_jax.config import FROM_DATASET, Config
from vits_jax.data.voice_config import language_of, read_voice_config
from vits_jax.errors import UserError
from vits_jax.presets import preset, preset_names, quality_of
from vits_jax.text import default_phoneme_id_map

ONNX, CKPT, RUN = "onnx", "ckpt", "run"

# Of training, which a published voice says nothing of.
_UNKNOWN_OF_ONNX = frozenset(
    {
        *("p_dropout", "segment_size", "discriminator_width", "use_mrd"),
        *("mel_channels", "mel_fmin", "mel_fmax"),
    }
)


@dataclass(frozen=True)
class Base:
    """What `--from` names.

    Attributes:
        path: as it was named.
        kind: `ONNX`, `CKPT` or `RUN`.
        config: its network's, as far as it is known.
        dataset: its JSON: phonemes, language, speakers. Empty of a ``.ckpt`` without one.
        voice_config: the file with that, of a ``.ckpt``.
    """

    path: Path
    kind: str
    config: Config
    dataset: Mapping[str, Any]
    voice_config: Path | None = None

    @property
    def sample_rate(self) -> int:
        """Hertz: the new voice's too."""
        return self.config.audio.sample_rate

    @property
    def language(self) -> str | None:
        """espeak-ng's voice; None where it does not say."""
        espeak = self.dataset.get("espeak")
        if isinstance(espeak, dict) and espeak.get("voice"):
            return str(espeak["voice"])
        code = language_of(self.dataset)
        return None if code is None else code.replace("_", "-")

    @property
    def phoneme_type(self) -> str:
        """As `preprocess` has it."""
        return str(self.dataset.get("phoneme_type") or "espeak")

    @property
    def symbols(self) -> Mapping[str, Any]:
        """Its phoneme map; empty where it is not known."""
        return self.dataset.get("phoneme_id_map") or {}

    def own_symbols(self) -> bool:
        """Whether it has some that Piper's table has not, or has under other ids.

        Raises:
            UserError: Piper's table is not installed.
        """
        if not self.symbols:
            return False
        table = default_phoneme_id_map(self.phoneme_type)
        # Older voices list diphthongs too, which no phonemizer makes.
        return any(table.get(s) != ids for s, ids in self.symbols.items() if len(s) == 1)

    def model_flags(self) -> dict[str, str]:
        """Flags of `train` that give a network which takes over all that this one has.

        A preset, and beside it what differs.
        """
        audio, model = vars(self.config.audio), vars(self.config.model)
        known = {name: value for name, value in (audio | model).items() if name not in FROM_DATASET}

        def different(name: str) -> dict[str, Any]:
            its = preset(name).replaced({"num_speakers": self.config.model.num_speakers})
            theirs = vars(its.audio) | vars(its.model)
            other = {key for key, value in known.items() if theirs[key] != value}
            if self.kind == ONNX:
                # Of an unusual hop the preset's segment would be too long or too short.
                other -= _UNKNOWN_OF_ONNX - ({"segment_size"} if "hop_length" in other else set())
            return {key: known[key] for key in known if key in other}

        by_rate = (quality_of(self.config) or "").replace("_", "-")
        name = min(preset_names(), key=lambda name: (len(different(name)), name != by_rate))
        return {"quality": name} | {key: _text(v) for key, v in different(name).items()}


def _text(value: Any) -> str:
    """A flag's value as `train` reads it."""
    if value is None:
        return "null"
    if isinstance(value, tuple) and not any(isinstance(item, tuple) for item in value):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def read_base(path: Path, voice_config: Path | None = None) -> Base:
    """Look at what is to begin with; nothing of it is loaded for long.

    Args:
        path: ``.onnx`` with its JSON beside it, a ``.ckpt``, a run directory or a step of it.
        voice_config: the JSON, elsewhere.

    Raises:
        UserError: it is none of these, or is damaged.
    """
    if path.is_dir():
        if voice_config is not None:
            raise UserError(f"--voice-config {voice_config}: {path} knows its own")
        metadata = store.written_metadata(store.resolve(path))
        return Base(path, RUN, metadata.config, metadata.dataset)
    if not path.is_file():
        raise UserError(
            f"--from {path}: no such file: expected a voice (.onnx, its .onnx.json beside it), "
            "a .ckpt or a run directory"
        )
    if path.suffix == ".onnx":
        voice = onnx_voice.read(path, voice_config)
        return Base(path, ONNX, voice.config, voice.dataset, voice_config)
    if path.suffix != ".ckpt":
        raise UserError(f"--from {path}: expected .onnx, .ckpt or a run directory")
    beside = path.with_name("config.json")  # where Piper's published checkpoints have it
    if voice_config is None and beside.is_file():
        voice_config = beside
    voice_json = None if voice_config is None else read_voice_config(voice_config)
    found = piper.read(path, voice_json).metadata
    return Base(path, CKPT, found.config, found.dataset, voice_config)
