"""Any voice that speaks: a checkpoint, or an ONNX file of Piper's or of this project's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vits_jax.config import Config
from vits_jax.data.voice_config import read_voice_config
from vits_jax.errors import RunFailed, UserError
from vits_jax.voice import texts
from vits_jax.voice.speech import Settings, joined

_INSTALL = 'pip install "vits_jax[export]"'


class AnyVoice(Protocol):
    """What speaks.

    Attributes:
        name: what it was opened by.
        dataset: its JSON: phonemes, speakers, language.
        sample_rate: hertz.
        trained: the configuration of its run; None where it does not say.
    """

    @property
    def name(self) -> str: ...
    @property
    def dataset(self) -> Mapping[str, Any]: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def trained(self) -> Config | None: ...

    def speak(self, sentences: Sequence[Sequence[int]], speaker: str | int | None) -> np.ndarray:
        """Sentences of phoneme ids after each other: float32 ``[samples]`` in [-1, 1].

        Raises:
            UserError: ids or a speaker that this voice does not have.
            RunFailed: what it gives is no sound.
        """


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint, spoken by JAX."""

    name: str
    voice: Any
    settings: Settings

    @property
    def dataset(self) -> Mapping[str, Any]:
        return self.voice.dataset

    @property
    def sample_rate(self) -> int:
        return self.voice.sample_rate

    @property
    def trained(self) -> Config | None:
        return self.voice.config

    def speak(self, sentences: Sequence[Sequence[int]], speaker: str | int | None) -> np.ndarray:
        checked = [self.voice.sentence(ids, speaker) for ids in sentences]
        spoken = self.voice.speak(checked, self.settings, batch_size=1)
        return np.clip(joined([each.audio for each in spoken], 0), -1, 1)


@dataclass(frozen=True)
class _Onnx:
    """A voice's graph, spoken by onnxruntime."""

    name: str
    dataset: Mapping[str, Any]
    sample_rate: int
    num_symbols: int
    num_speakers: int
    settings: Settings
    session: Any
    trained: None = None

    def speak(self, sentences: Sequence[Sequence[int]], speaker: str | int | None) -> np.ndarray:
        number = self._speaker(speaker)
        return np.clip(joined([self._sentence(ids, number) for ids in sentences], 0), -1, 1)

    def _sentence(self, ids: Sequence[int], speaker: int) -> np.ndarray:
        wrong = [number for number in ids if not 0 <= number < self.num_symbols]
        if wrong or not ids:
            got = f"phoneme id {wrong[0]}" if wrong else "no phoneme ids"
            raise UserError(f"{self.name}: {got}: expected ids from 0 to {self.num_symbols - 1}")
        s = self.settings
        inputs: dict[str, np.ndarray] = {
            "input": np.asarray([ids], np.int64),
            "input_lengths": np.asarray([len(ids)], np.int64),
            "scales": np.asarray([s.noise_scale, s.length_scale, s.noise_w], np.float32),
        }
        if any(each.name == "sid" for each in self.session.get_inputs()):
            inputs["sid"] = np.asarray([speaker], np.int64)
        audio = np.asarray(self.session.run(None, inputs)[0], np.float32).reshape(-1)
        if not np.isfinite(audio).all():
            raise RunFailed(f"{self.name}: a sentence came out as numbers that are not finite")
        return audio

    def _speaker(self, speaker: str | int | None) -> int:
        known = self.dataset.get("speaker_id_map") or {}
        number = known.get(speaker, speaker) if isinstance(speaker, str) else speaker
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if number is None:
            return 0
        if isinstance(number, str) or not 0 <= number < self.num_speakers:
            names = ", ".join(list(known)[:10]) or f"ids from 0 to {self.num_speakers - 1}"
            raise UserError(f"{self.name}: no speaker {speaker!r} in this voice: it has {names}")
        return number


def open_voice(
    path: str | Path,
    voice_config: str | Path | None = None,
    *,
    noise_scale: float | None = None,
    length_scale: float | None = None,
    noise_w: float | None = None,
    seed: int = 0,
) -> AnyVoice:
    """A voice, wherever it is.

    Args:
        path: a run directory, one step of it, a ``.ckpt``, or a voice's ``.onnx``.
        voice_config: the JSON of a ``.ckpt``'s dataset, or of a voice (default: beside it).
        noise_scale, length_scale, noise_w: how to speak (default: what its JSON says under
          ``inference``, as Piper's runtime does; else Piper's own).
        seed: the same one gives the same audio.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    given = {"noise_scale": noise_scale, "length_scale": length_scale, "noise_w": noise_w}
    if Path(path).suffix == ".onnx":
        return _open_onnx(Path(path), voice_config, given, seed)
    from vits_jax.voice.voice import load

    voice = load(path, voice_config)
    settings = _settings(voice.dataset, given, seed)
    voice.check_settings(settings)
    return _Checkpoint(str(path), voice, settings)


def _open_onnx(
    path: Path,
    voice_config: str | Path | None,
    given: Mapping[str, float | None],
    seed: int,
) -> _Onnx:
    from vits_jax.voice.voice import Voice

    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: .onnx voices need onnxruntime: {_INSTALL}") from error
    if not path.is_file():
        raise UserError(f"{path}: no such file: expected a voice")
    json_path = path.with_name(f"{path.name}.json") if voice_config is None else Path(voice_config)
    if not json_path.is_file():
        raise UserError(
            f"{json_path}: no such file: a voice's JSON lies beside it, or --voice-config names it"
        )
    config = read_voice_config(json_path)
    settings = _settings(config.raw, given, seed)
    Voice.check_settings(settings)
    onnxruntime.set_seed(settings.seed)  # taken by what draws random numbers, when it is made
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a voice that onnxruntime can run: {first}") from error
    inputs = {each.name for each in session.get_inputs()}
    if not {"input", "input_lengths", "scales"} <= inputs:
        raise UserError(
            f"{path}: not a Piper voice: it takes {', '.join(sorted(inputs))}, "
            "expected input, input_lengths, scales"
        )
    return _Onnx(
        name=str(path),
        dataset=config.raw,
        sample_rate=config.sample_rate,
        num_symbols=config.num_symbols,
        num_speakers=config.num_speakers,
        settings=settings,
        session=session,
    )


def _settings(dataset: Mapping[str, Any], given: Mapping[str, float | None], seed: int) -> Settings:
    """How to speak: what was asked for, else what the voice says, else Piper's."""
    said = dataset.get("inference")
    said = said if isinstance(said, dict) else {}
    scales: dict[str, float] = {}
    for name, asked in given.items():
        value = said.get(name) if asked is None else asked
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            scales[name] = float(value)
    return Settings(seed=seed)._replace(**scales)  # type: ignore[arg-type]  # of `given` alone


def ids_of(voice: AnyVoice, text: str) -> tuple[list[list[int]], dict[str, int]]:
    """A text as this voice says it; see `texts.phonemize`."""
    return texts.phonemize(voice.dataset, text)
