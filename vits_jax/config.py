"""Everything a training run can be told, as frozen dataclasses.

Every field is one flag of ``python -m vits_jax.train`` and one key of the YAML presets
in ``configs/``, under the same name. Names and defaults are Piper's (the old trainer's
where it and piper1 disagree). Three values are not the user's to choose: the sample
rate, the number of symbols and the number of speakers come from the dataset.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vits_jax.errors import UserError
from vits_jax.flag_types import convert

PRECISIONS: Mapping[str, str] = types.MappingProxyType(
    {
        **{name: name for name in ("auto", "32", "tf32", "bf16-mixed")},
        **{"32-true": "32", "bf16": "bf16-mixed"},  # Lightning's spellings
    }
)
"""Of `--precision`: each spelling, and what it is called here."""


MRD_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""Of `--use-mrd`: FFT size, hop and window of each, samples (Piper's)."""

OFF, HOLD = "off", "hold"
"""Of `--keep-speakers`, beside numbers."""


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class AudioConfig:
    """Analysis of the audio: samples to linear spectrogram to mel."""

    sample_rate: int = _flag(22050, "samples per second (from the dataset)")
    filter_length: int = _flag(1024, "FFT size, samples")
    hop_length: int = _flag(256, "samples between two frames")
    win_length: int = _flag(1024, "length of the Hann window, samples")
    mel_channels: int = _flag(80, "mel bands of the reconstruction loss")
    mel_fmin: float = _flag(0.0, "lowest mel frequency, hertz")
    mel_fmax: float | None = _flag(None, "highest mel frequency, hertz (default: Nyquist)")

    @property
    def spec_channels(self) -> int:
        """Bins of the linear spectrogram."""
        return self.filter_length // 2 + 1

    @property
    def reflect(self) -> int:
        """Samples reflected on each side of an utterance before the STFT."""
        return (self.filter_length - self.hop_length) // 2

    @property
    def min_samples(self) -> int:
        """Shortest signal that can be analysed: reflection needs more samples than it copies."""
        return max(self.reflect + 1, self.hop_length)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the generator and the discriminators."""

    num_symbols: int = _flag(256, "phoneme ids (from the dataset)")
    num_speakers: int = _flag(1, "speakers (from the dataset)")
    # Decoder
    resblock: str = _flag("2", "HiFi-GAN residual block: 1 or 2")
    resblock_kernel_sizes: tuple[int, ...] = _flag((3, 5, 7), "kernels of the residual blocks")
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = _flag(
        ((1, 2), (2, 6), (3, 12)), "dilations of each residual block"
    )
    upsample_rates: tuple[int, ...] = _flag((8, 8, 4), "upsampling factors of the decoder")
    upsample_initial_channel: int = _flag(256, "channels before the first upsampling")
    upsample_kernel_sizes: tuple[int, ...] = _flag((16, 16, 8), "kernels of the upsampling")
    # Encoders, flow, durations
    inter_channels: int = _flag(192, "channels of the latent variable")
    hidden_channels: int = _flag(192, "channels inside encoders and flow")
    filter_channels: int = _flag(768, "channels of the text encoder's feed-forward layers")
    n_heads: int = _flag(2, "attention heads")
    n_layers: int = _flag(6, "layers of the text encoder")
    kernel_size: int = _flag(3, "kernel of the text encoder's feed-forward layers")
    p_dropout: float = _flag(0.1, "dropout of the text encoder")
    gin_channels: int = _flag(0, "channels of a speaker's embedding (default: 512 when several)")
    use_sdp: bool = _flag(True, "stochastic durations (false: plain regression)")
    # Adversarial training
    segment_size: int = _flag(8192, "samples that decoder and discriminators see per utterance")
    discriminator_width: int = _flag(1024, "widest layer of the discriminators (Piper: 1024)")
    use_mrd: bool = _flag(False, "discriminators of spectra too, at three resolutions")

    def __post_init__(self) -> None:
        if self.num_speakers > 1 and self.gin_channels <= 0:
            object.__setattr__(self, "gin_channels", 512)  # Piper's default


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for both networks, and the weights of the losses."""

    learning_rate: float = _flag(2e-4, "generator's learning rate")
    learning_rate_d: float = _flag(2e-4, "discriminators' learning rate")
    betas: tuple[float, float] = _flag((0.8, 0.99), "AdamW betas, generator")
    betas_d: tuple[float, float] = _flag((0.8, 0.99), "AdamW betas, discriminators")
    gradient_clip_val: float | None = _flag(
        None, "clip the gradients of each network to this (default: not at all)"
    )
    gradient_clip_algorithm: str = _flag(
        "norm", "clip the norm of a network's gradients (norm), or each number (value)"
    )
    eps: float = _flag(1e-9, "AdamW epsilon")
    weight_decay: float = _flag(0.01, "AdamW decoupled weight decay (PyTorch's default)")
    lr_decay: float = _flag(0.999875, "learning rate multiplier per epoch, generator")
    lr_decay_d: float = _flag(0.999875, "learning rate multiplier per epoch, discriminators")
    freeze: tuple[str, ...] = _flag(
        (), "parts that do not learn, and take neither gradients nor moments: enc_p,dp,dec.ups.*"
    )
    part_rates: tuple[str, ...] = _flag(
        (), "factors of the learning rate by part: dec=0.1,enc_p=0 (0: that part stays as it is)"
    )
    lr_schedule: str = _flag(
        "exponential",
        "how rates fall: exponential (by lr_decay each epoch), constant, or cosine (to 0 at "
        "max_steps)",
    )
    warmup_steps: int = _flag(0, "rates rise from 0 in so many steps, of both networks")
    kl_annealing_steps: int = _flag(0, "the weight of the KL divergence rises in so many steps")
    recover_steps: int | None = _flag(
        None, "steps until discriminators that a warm start lacks count wholly (default: 400)"
    )
    keep_speakers: str = _flag(
        "off",
        "what a warm start took of a voice with several speakers: hold (stays; new speakers' rows "
        "of emb_g learn alone), a number (is pulled back, so strongly; old rows stay), or off",
    )
    kept_speakers: tuple[int, ...] = _flag((), "their rows of emb_g (from the warm start)")
    kept_fresh: tuple[str, ...] = _flag((), "tensors that it did not take (from the warm start)")
    c_mel: float = _flag(45.0, "weight of the mel reconstruction loss")
    c_kl: float = _flag(1.0, "weight of the KL divergence")
    c_dur: float = _flag(1.0, "weight of the duration loss")
    c_fm: float = _flag(2.0, "weight of the feature matching loss")
    c_gen: float = _flag(1.0, "weight of the adversarial loss")
    ema_decay: float = _flag(
        0.0, "keep a running average of the generator's weights, and speak with it (0: none)"
    )


@dataclass(frozen=True)
class DataConfig:
    """Which utterances, and how they become batches."""

    dataset_dir: str | None = _flag(None, "directory that preprocess wrote (required)")
    batch_size: int | None = _flag(
        None, "utterances per step, over all devices (Lightning's is per device); or batch_frames"
    )
    batch_frames: int | None = _flag(
        None, "frames per step, over all devices, instead: long utterances make smaller batches"
    )
    accumulate_grad_batches: int = _flag(
        1, "batches to an update: N times batch_size or batch_frames, in the memory of one"
    )
    validation_split: float = _flag(0.1, "fraction of the utterances held out for validation")
    num_test_examples: int = _flag(5, "utterances held out and spoken after each validation")
    max_phoneme_ids: int | None = _flag(None, "leave out utterances with more phoneme ids")
    max_frames: int | None = _flag(None, "leave out utterances with more frames")
    speaker_weights: str | None = _flag(
        None,
        "rows of each speaker in an epoch: uniform (all the same), sqrt (by the square root of "
        "their utterances), or a YAML file of `name: weight` (default: each utterance once)",
    )
    num_buckets: int = _flag(4, "most batch shapes to compile; more shapes waste less padding")
    data_on_device: bool = _flag(
        False, "keep the corpus in the memory of each device (160 MB an hour at 22050 Hz)"
    )


@dataclass(frozen=True)
class RunConfig:
    """Length, place and bookkeeping of a run."""

    seed: int = _flag(1234, "seed of every random choice")
    max_epochs: int | None = _flag(
        None, "stop after so many epochs (default: 1000 where max_steps is not given; -1: no limit)"
    )
    max_steps: int = _flag(-1, "stop after so many batches (-1: no limit)")
    max_time: str | None = _flag(
        None, "save and stop so long after the start, DD:HH:MM:SS (the same command goes on)"
    )
    limit_train_batches: int | float = _flag(
        1.0, "batches of an epoch to use: a fraction (1.0: all) or, as an integer, a number"
    )
    fast_dev_run: int = _flag(0, "run so many batches of training and validation, save nothing")
    run_dir: str | None = _flag(None, "all of this run (default: a new runs/version_N)")
    default_root_dir: str | None = _flag(
        None, "where runs/ is made (default: the dataset directory)"
    )
    checkpoint_minutes: float = _flag(
        15.0, "save when N minutes have gone since the last save, also within an epoch (0: never)"
    )
    checkpoint_epochs: int | None = _flag(
        None, "save every N epochs (default: 1, if half of checkpoint_minutes has gone)"
    )
    checkpoint_steps: int | None = _flag(None, "save every N batches as well")
    keep_newest: int = _flag(3, "checkpoints to keep: the newest N (-1: every one)")
    keep_best: int | str = _flag(1, "and the N best; or by what: mel means 1, --keep-best-by mel")
    keep_best_by: str = _flag("mel", "what tells the best: a validation loss (mel, kl, dur, ...)")
    keep_epochs: int | None = _flag(None, "and for ever the one at the end of every Nth epoch")
    check_val_every_n_epoch: int | None = _flag(
        None, "validate every N epochs (default: 1, as far as that takes 2.5 % of the time)"
    )
    log_every_n_steps: int = _flag(50, "write scalars every N batches")
    metrics_every: int = _flag(
        5, "score what is said (words, naturalness, likeness …) every N validations (0: never)"
    )
    metric: str | None = _flag(
        None, "a metric of your own besides, package.module:function (docs/metrics.md)"
    )
    logger: str = _flag(
        "tensorboard",
        "tensorboard, wandb, mlflow, csv or none; metrics.jsonl in the run directory has it all",
    )
    stop_when: str = _flag(
        "never", "plateau: save and stop once the verdict on the run is that nothing is gained"
    )
    price: float | None = _flag(
        None,
        "of the machine for an hour (plan: of a chip): the run's page tells what it costs",
    )
    profile: int = _flag(0, "trace N steps for TensorBoard's profile page, into the run directory")
    resume_from_checkpoint: str | None = _flag(
        None,
        "go on from a checkpoint (another run, or Piper's .ckpt): weights, optimizer with its "
        "settings, step, position",
    )
    resume_from_single_speaker_checkpoint: str | None = _flag(
        None, "begin a multi-speaker model with a single-speaker checkpoint's weights"
    )
    warmstart_ckpt: str | None = _flag(
        None,
        "begin with every tensor of a checkpoint that fits or can be made to (a narrower voice, "
        "another rate), and nothing else of it",
    )
    vocoder_warmstart_ckpt: str | None = _flag(
        None, "the same, of decoder, posterior encoder and flow alone"
    )
    recover: str = _flag(
        "auto",
        "where a warm start lacks what a voice was published without (posterior encoder, "
        "discriminators): auto (learn that first, then the rest) or off",
    )
    reinit: tuple[str, ...] = _flag(
        (), "parts that begin fresh all the same, by name or pattern: dec,dp,flow.flows.6.*"
    )
    voice_config: str | None = _flag(
        None, "config.json of the dataset that a .ckpt was trained on: its symbols and speakers"
    )
    strict: bool = _flag(
        False, "refuse to go on from an earlier checkpoint where the newest one is damaged"
    )
    max_skipped_updates: int = _flag(
        10, "stop after N updates in a row that were skipped: losses or gradients not finite"
    )
    precision: str = _flag(
        "auto",
        "32 (exact float32), tf32 (an accelerator's fast float32), bf16-mixed (networks in "
        "bfloat16, weights and losses in float32), auto (bf16-mixed on GPU and TPU, 32 on CPU)",
    )
    accelerator: str = _flag("auto", "auto, cpu, gpu or tpu")
    devices: int | str = _flag("auto", "how many devices of each process to use (auto: all)")
    coordinator: str | None = _flag(
        None, "HOST:PORT of the first process (Cloud TPU, Slurm, Open MPI, Kubernetes: found)"
    )
    num_nodes: int | None = _flag(
        None, "processes of the run, one on each host (1: this one alone, on a cluster too)"
    )
    node_rank: int | None = _flag(None, "which of the processes this is, from 0")


@dataclass(frozen=True)
class Config:
    """The whole of a run's configuration."""

    audio: AudioConfig = field(default_factory=AudioConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def segment_frames(self) -> int:
        """Frames of the segment that the decoder generates in training."""
        return self.model.segment_size // self.audio.hop_length

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """``{section: {flag: value}}`` in types that YAML and JSON hold."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, sections: Mapping[str, Mapping[str, Any]], where: str) -> Config:
        """The reverse of `to_dict`.

        Raises:
            UserError: an unknown key or a value of another type; `where` names the source.
        """
        flat = {name: value for section in sections.values() for name, value in section.items()}
        for name in flat:
            if name not in FIELDS:
                raise UserError(f"{where}: unknown key {name!r}")
        return cls().replaced(
            {n: convert(v, FIELDS[n].type, f"{where}: {n}") for n, v in flat.items()}
        )

    def replaced(self, values: Mapping[str, Any]) -> Config:
        """With other values for some flags (``{"batch_size": 8, "seed": 1}``), any section."""
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            changes.setdefault(FIELDS[name].section, {})[name] = value
        parts = {s: dataclasses.replace(getattr(self, s), **new) for s, new in changes.items()}
        return dataclasses.replace(self, **parts)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Field:
    """One flag: the section that holds it, its type, default and help."""

    section: str
    name: str
    type: Any
    default: Any
    help: str


def _fields() -> dict[str, Field]:
    found = {}
    for section, part in typing.get_type_hints(Config).items():
        types_of = typing.get_type_hints(part)
        for item in dataclasses.fields(part):
            found[item.name] = Field(
                section, item.name, types_of[item.name], item.default, item.metadata["help"]
            )
    return found


FIELDS: Mapping[str, Field] = types.MappingProxyType(_fields())
"""Every flag by name (with ``_``)."""

FROM_DATASET = ("sample_rate", "num_symbols", "num_speakers")
"""What only the dataset can say."""

NO_FLAGS = (*FROM_DATASET, "kept_speakers", "kept_fresh")
"""What nobody sets: the dataset says it, or how the run began."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of flags; keys may be spelt with ``-`` or ``_``.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values or {}, dict):
        raise UserError(f"{path}: got {type(values).__name__}, expected `flag: value` lines")
    return {str(key).replace("-", "_"): value for key, value in (values or {}).items()}


def write_yaml(config: Config, path: Path) -> None:
    """Write `config` so that ``--config`` reads it back.

    What the dataset says stands in comments: it is not for a preset to set. The run
    directory is left out, so that a moved run is not continued at its old place.
    """
    lines = ["# The resolved configuration of this run."]
    for section, values in config.to_dict().items():
        lines.append(f"\n# {section}")
        for name, value in values.items():
            text = yaml.safe_dump({name: value}, default_flow_style=True, width=10_000)
            left_out = name in NO_FLAGS or name == "run_dir"
            lines.append(("# " if left_out else "") + text.strip().strip("{}"))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
