"""What a configuration may not say, found before anything is read, built or written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from vits_jax.config import (
    HOLD,
    MRD_RESOLUTIONS,
    OFF,
    PRECISIONS,
    AudioConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
)
from vits_jax.errors import UserError

CHECKPOINT_FLAGS = (
    "resume_from_checkpoint",
    "resume_from_single_speaker_checkpoint",
    "warmstart_ckpt",
    "vocoder_warmstart_ckpt",
)
LOGGERS = ("tensorboard", "wandb", "mlflow", "csv", "none")
LR_SCHEDULES = ("exponential", "constant", "cosine")
ACCELERATORS = ("auto", "cpu", "gpu", "tpu")
_ADDRESS = re.compile(r"\S+:\d{1,5}")
_PRESETS_HOPS = (256, 512)  # of models of one's own nothing is said
_METRIC = re.compile(r"(?!epochs$)[A-Za-z][\w./-]*")
_TIME = re.compile(r"(\d+):(\d{1,2}):(\d{1,2}):(\d{1,2})")


def check(config: Config) -> None:
    """Raise `UserError` for the first impossible value."""
    for problem in problems(config):
        raise UserError(problem)


def check_batch(data: DataConfig) -> None:
    """Raise `UserError` unless it says how large batches are."""
    if data.batch_size is None and data.batch_frames is None:
        raise UserError(
            "--batch-size is missing: utterances per step, over all devices together; "
            "or --batch-frames, frames per step"
        )


def problems(config: Config) -> Iterator[str]:
    """One line for each impossible value: the flag, the value, what was expected."""
    yield from _audio(config.audio)
    yield from _model(config.model)
    yield from _segment(config)
    yield from _optimizer(config.optimizer)
    if config.optimizer.lr_schedule == "cosine" and config.run.max_steps < 1:
        yield _say("lr_schedule", "cosine", "--max_steps with it: rates are 0 there")
    yield from _data(config.data)
    yield from _run(config.run)


def doubts(audio: AudioConfig) -> Iterator[str]:
    """One line for what is possible, and probably not meant: a preset for another sample rate.

    With the presets' hops a frame lasts from 10.7 ms (512 samples at 48,000 Hz) to 16 ms (256 at
    16,000 Hz). A phoneme lasts a frame at least, and what is learnt are frames.
    """
    milliseconds = 1000 * audio.hop_length / audio.sample_rate
    if audio.hop_length in _PRESETS_HOPS and not 8 <= milliseconds <= 20:
        instead = "high-44k or high-48k" if milliseconds < 8 else "x-low, low, medium or high"
        yield (
            f"{audio.sample_rate} Hz with --hop-length {audio.hop_length} makes frames of "
            f"{milliseconds:.1f} ms, where Piper's last 11.6 or 16: a voice of that rate wants "
            f"--quality {instead}"
        )


def _say(name: str, value: object, expected: str) -> str:
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--{name.replace('_', '-')} {shown}: expected {expected}"


def _at_least(part: object, least: int, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(part, name)
        if value is not None and value < least:
            yield _say(name, value, f"at least {least}")


def _finite(part: object, *names: str) -> Iterator[str]:
    for name in names:
        value = getattr(part, name)
        if not (math.isfinite(value) and value >= 0):
            yield _say(name, value, "a finite number, at least 0")


def _audio(audio: AudioConfig) -> Iterator[str]:
    yield from _at_least(audio, 1, "filter_length", "hop_length", "win_length", "mel_channels")
    if audio.win_length > audio.filter_length:
        yield _say("win_length", audio.win_length, f"at most --filter-length {audio.filter_length}")
    if audio.hop_length > audio.filter_length or (audio.filter_length - audio.hop_length) % 2:
        yield _say(
            "hop_length",
            audio.hop_length,
            f"at most --filter-length {audio.filter_length}, and an even difference to it",
        )
    nyquist = audio.sample_rate / 2
    top = nyquist if audio.mel_fmax is None else audio.mel_fmax
    if not 0 <= audio.mel_fmin < top:
        yield _say("mel_fmin", audio.mel_fmin, f"from 0 to below the highest frequency {top}")
    if not top <= nyquist:
        yield _say("mel_fmax", audio.mel_fmax, f"at most half the sample rate, {nyquist}")


def _model(model: ModelConfig) -> Iterator[str]:
    yield from _at_least(
        model,
        1,
        *("inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers"),
        *("kernel_size", "upsample_initial_channel", "segment_size"),
    )
    yield from _at_least(model, 0, "gin_channels")
    if model.inter_channels % 2:
        yield _say("inter_channels", model.inter_channels, "an even number: the flow halves it")
    if model.n_heads > 0 and model.hidden_channels % model.n_heads:
        yield _say(
            "hidden_channels", model.hidden_channels, f"a multiple of --n-heads {model.n_heads}"
        )
    if not 0 <= model.p_dropout < 1:
        yield _say("p_dropout", model.p_dropout, "from 0 to below 1")
    if model.discriminator_width < 1 or model.discriminator_width & (model.discriminator_width - 1):
        yield _say("discriminator_width", model.discriminator_width, "a power of two")
    yield from _decoder(model)


def _decoder(model: ModelConfig) -> Iterator[str]:
    stages, kernels = model.upsample_rates, model.upsample_kernel_sizes
    if not stages or min(stages) < 1:
        yield _say("upsample_rates", stages, "whole numbers of at least 1")
        return
    if len(kernels) != len(stages) or any((k - u) % 2 or k < u for k, u in zip(kernels, stages)):
        yield _say(
            "upsample_kernel_sizes",
            kernels,
            f"{len(stages)} numbers, each an even amount above its --upsample-rates, or equal",
        )
    if model.upsample_initial_channel % 2 ** len(stages):
        yield _say(
            "upsample_initial_channel",
            model.upsample_initial_channel,
            f"a multiple of {2 ** len(stages)}: each of --upsample-rates halves it",
        )
    if model.resblock not in ("1", "2"):
        yield _say("resblock", model.resblock, "1 or 2")
        return
    sizes = model.resblock_kernel_sizes
    if not sizes or any(k < 1 or k % 2 == 0 for k in sizes):
        yield _say("resblock_kernel_sizes", sizes, "odd numbers")
    per_block = {"1": 3, "2": 2}[model.resblock]  # Piper's blocks have that many convolutions
    dilations = model.resblock_dilation_sizes
    if len(dilations) != len(sizes) or any(
        len(row) != per_block or min(row) < 1 for row in dilations
    ):
        yield _say(
            "resblock_dilation_sizes",
            dilations,
            f"{len(sizes)} lists of {per_block} numbers (--resblock {model.resblock})",
        )


def _segment(config: Config) -> Iterator[str]:
    audio, model = config.audio, config.model
    upsampling = math.prod(model.upsample_rates)
    if upsampling != audio.hop_length:
        yield _say(
            "upsample_rates",
            model.upsample_rates,
            f"a product of --hop-length {audio.hop_length}, got {upsampling}",
        )
    if audio.hop_length > 0 and model.segment_size % audio.hop_length:
        near = max(1, round(model.segment_size / audio.hop_length)) * audio.hop_length
        yield _say(
            "segment_size",
            model.segment_size,
            f"a multiple of --hop-length {audio.hop_length}, such as {near}",
        )
    if model.segment_size < audio.min_samples:
        yield _say(
            "segment_size",
            model.segment_size,
            f"at least {audio.min_samples} samples: an FFT of {audio.filter_length} reflects them",
        )
    least = 1 + max((n_fft - hop) // 2 for n_fft, hop, _ in MRD_RESOLUTIONS)
    if model.use_mrd and model.segment_size < least:
        yield _say("segment_size", model.segment_size, f"at least {least} samples with --use-mrd")


def _optimizer(optimizer: OptimizerConfig) -> Iterator[str]:
    yield from _finite(
        optimizer,
        *("learning_rate", "learning_rate_d", "weight_decay"),
        *("c_mel", "c_kl", "c_dur", "c_fm", "c_gen"),
    )
    for name in ("betas", "betas_d"):
        value = getattr(optimizer, name)
        if not all(0 <= beta < 1 for beta in value):
            yield _say(name, value, "two numbers from 0 to below 1")
    if optimizer.gradient_clip_val is not None:
        yield from _finite(optimizer, "gradient_clip_val")
    if optimizer.gradient_clip_algorithm not in ("norm", "value"):
        yield _say("gradient_clip_algorithm", optimizer.gradient_clip_algorithm, "norm or value")
    if not 0 <= optimizer.ema_decay < 1:
        yield _say("ema_decay", optimizer.ema_decay, "above 0 and below 1, or 0 for no averages")
    for word in optimizer.part_rates:
        part, equals, factor = word.rpartition("=")
        if not (part.strip() and equals and _is_rate(factor)):
            yield _say("part_rates", word, "PART=FACTOR, such as dec=0.1")
    yield from _kept(optimizer)
    yield from _at_least(optimizer, 0, "warmup_steps", "kl_annealing_steps", "recover_steps")
    if optimizer.lr_schedule not in LR_SCHEDULES:
        yield _say("lr_schedule", optimizer.lr_schedule, f"one of {', '.join(LR_SCHEDULES)}")
    for name in ("eps", "lr_decay", "lr_decay_d"):
        value = getattr(optimizer, name)
        if not (math.isfinite(value) and value > 0):
            yield _say(name, value, "a finite number above 0")


def _kept(optimizer: OptimizerConfig) -> Iterator[str]:
    asked = optimizer.keep_speakers
    if asked in (OFF, HOLD):
        return
    if not _is_rate(asked) or not float(asked):
        yield _say("keep_speakers", asked, f"{OFF}, {HOLD} or a number above 0")
    elif float(asked) * optimizer.learning_rate > 1:
        most = f"{1 / optimizer.learning_rate:g}, where a step would undo all of what was learnt"
        yield _say("keep_speakers", asked, f"at most 1 / --learning-rate, {most}")


def _is_rate(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False


def _data(data: DataConfig) -> Iterator[str]:
    yield from _at_least(data, 1, "batch_size", "batch_frames")
    yield from _at_least(data, 1, "max_phoneme_ids", "max_frames", "num_buckets")
    yield from _at_least(data, 1, "accumulate_grad_batches")
    if data.batch_size is not None and data.batch_frames is not None:
        yield (
            f"--batch-size {data.batch_size} and --batch-frames {data.batch_frames}: "
            "expected one of the two"
        )
    yield from _at_least(data, 0, "num_test_examples")
    if data.speaker_weights == "":
        yield _say("speaker_weights", "''", "uniform, sqrt or a file of weights")
    if not 0 <= data.validation_split < 1:
        yield _say("validation_split", data.validation_split, "from 0 to below 1")


def _run(run: RunConfig) -> Iterator[str]:
    yield from _at_least(run, -1, "max_epochs", "max_steps", "keep_newest")
    yield from _at_least(run, 0, "fast_dev_run", "profile")
    yield from _best(run)
    yield from _at_least(
        run,
        1,
        *("checkpoint_epochs", "checkpoint_steps", "keep_epochs"),
        *("check_val_every_n_epoch", "log_every_n_steps", "max_skipped_updates"),
    )
    yield from _finite(run, "checkpoint_minutes")
    named = [name for name in CHECKPOINT_FLAGS if getattr(run, name) is not None]
    if len(named) > 1:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in named)
        yield f"{both}: expected one of them: a run begins in one way"
    if run.reinit and (not named or named[0] == "resume_from_checkpoint"):
        others = " or ".join(f"--{name}" for name in CHECKPOINT_FLAGS[1:])
        yield _say("reinit", run.reinit, f"with {others}, which take weights alone")
    if run.voice_config is not None and not any(
        str(getattr(run, name)).endswith(".ckpt") for name in named
    ):
        yield _say("voice_config", run.voice_config, "a .ckpt to go with: others know their own")
    if not 0 <= run.seed < 2**32:
        yield _say("seed", run.seed, f"from 0 to {2**32 - 1}")
    if run.keep_newest == 0:
        yield _say("keep_newest", 0, "at least 1, or -1 to keep every checkpoint")
    part, whole = run.limit_train_batches, isinstance(run.limit_train_batches, int)
    if part < 1 if whole else not 0 < part <= 1:
        yield _say(
            "limit_train_batches",
            part,
            "a fraction of an epoch above 0 and up to 1.0, or a whole number of batches",
        )
    if run.precision in ("16", "16-mixed", "16-true"):
        yield _say("precision", run.precision, "bf16-mixed: as fast, and nothing overflows")
    elif run.precision not in PRECISIONS:
        yield _say("precision", run.precision, f"one of {', '.join(PRECISIONS)}")
    if run.stop_when not in ("never", "plateau"):
        yield _say("stop_when", run.stop_when, "never or plateau")
    if run.recover not in ("auto", "off"):
        yield _say("recover", run.recover, "auto or off")
    if run.metrics_every < 0:
        yield _say("metrics_every", run.metrics_every, "at least 0")
    if run.price is not None and run.price < 0:
        yield _say("price", run.price, "at least 0")
    if run.logger not in LOGGERS:
        yield _say("logger", run.logger, f"one of {', '.join(LOGGERS)}")
    if run.accelerator not in ACCELERATORS:
        yield _say("accelerator", run.accelerator, f"one of {', '.join(ACCELERATORS)}")
    yield from _processes(run)
    if run.max_time is not None and seconds_of(run.max_time) is None:
        yield _say("max_time", run.max_time, "DD:HH:MM:SS, more than none, such as 00:11:30:00")
    if not (run.devices == "auto" or (isinstance(run.devices, int) and run.devices >= 1)):
        yield _say(
            "devices",
            run.devices,
            "a number of devices, or auto (CUDA_VISIBLE_DEVICES chooses among GPUs)",
        )


def _best(run: RunConfig) -> Iterator[str]:
    best, by = run.keep_best, run.keep_best_by
    if isinstance(best, int):
        yield from _at_least(run, 0, "keep_best")
    elif not _METRIC.fullmatch(best):
        yield _say("keep_best", best, "a whole number, or the name of a metric such as mel")
    elif by not in (best, RunConfig.keep_best_by):
        yield _say("keep_best", best, f"a whole number, with --keep-best-by {by}")
    if not _METRIC.fullmatch(by):
        yield _say("keep_best_by", by, "the name of a metric, such as mel")


def _processes(run: RunConfig) -> Iterator[str]:
    yield from _at_least(run, 1, "num_nodes")
    yield from _at_least(run, 0, "node_rank")
    if run.num_nodes == 1 and run.coordinator is None and not run.node_rank:
        return
    names = ("coordinator", "num_nodes", "node_rank")
    told: dict[str, Any] = {name: getattr(run, name) for name in names}
    missing = [name for name, value in told.items() if value is None]
    if 0 < len(missing) < len(told):
        there = next(name for name in told if name not in missing)
        yield _say(
            there,
            told[there],
            " and ".join(f"--{name.replace('_', '-')}" for name in missing) + " with it",
        )
    elif run.coordinator is not None and not _ADDRESS.fullmatch(run.coordinator):
        yield _say("coordinator", run.coordinator, "HOST:PORT, such as 10.0.0.2:8476")
    elif not missing and told["node_rank"] >= told["num_nodes"]:
        yield _say("node_rank", run.node_rank, f"less than --num-nodes {run.num_nodes}")


def seconds_of(max_time: str) -> int | None:
    """Of ``DD:HH:MM:SS``; None if it is something else, or no time at all."""
    found = _TIME.fullmatch(max_time)
    if found is None:
        return None
    days, hours, minutes, seconds = map(int, found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None
