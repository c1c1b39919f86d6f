"""Flags that people bring from Piper's trainers and from Lightning, and the answer to each.

Nothing is swallowed: a flag either asks for what happens anyway, or is refused with what
to use instead.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Mapping

from vits_jax.cli import Parser, dashed, unknown_flag
from vits_jax.errors import UserError

_NOT_BUILT = "not built yet"

# flag: (the values that ask for what happens anyway, what to say to any other)
Others = Mapping[str, tuple[tuple[str, ...], str]]

# `train`'s
OTHERS: Others = {
    # Later versions will have these.
    "deterministic": (("false",), f"{_NOT_BUILT}: on CPU every run repeats bit for bit"),
    # Done in another way.
    "auto_select_gpus": (("false",), "use --devices N, and CUDA_VISIBLE_DEVICES to choose GPUs"),
    "gpus": ((), "use --accelerator gpu --devices N"),
    "tpu_cores": ((), "use --accelerator tpu --devices N"),
    "num_processes": ((), "use --num_nodes N: one process drives all devices of a host"),
    "strategy": (("auto",), "leave it out: all devices share each batch"),
    "ckpt_path": ((), "use --resume_from_checkpoint"),
    "min_epochs": (("0", "1"), "use --max_epochs"),
    "min_steps": (("0",), "use --max_steps"),
    "val_check_interval": (("1.0",), "use --check_val_every_n_epoch"),
    "limit_val_batches": (("1.0",), "use --validation-split for how much is held out"),
    "limit_test_batches": ((), "use --num-test-examples"),
    "overfit_batches": (("0", "0.0"), "use --limit_train_batches"),
    "num_sanity_val_steps": (("0",), "use --fast_dev_run to try training and validation"),
    "track_grad_norm": ((), "leave it out: the gradient norms of both networks are logged"),
    "detect_anomaly": (("false",), "leave it out: numbers that are not finite stop a run"),
    "terminate_on_nan": (("true",), "leave it out: numbers that are not finite stop a run"),
    "enable_checkpointing": (("true",), "use --fast_dev_run to save nothing"),
    "enable_progress_bar": (("true",), "leave it out: without a terminal there is no bar"),
    "weights_save_path": ((), "use --run-dir"),
    "profiler": ((), "use --profile N to trace N steps"),
    "benchmark": (("true", "false"), "leave it out"),
    "sync_batchnorm": (("true", "false"), "leave it out: the model has no batch norm"),
    "auto_lr_find": (("false",), "use --learning-rate"),
    "auto_scale_batch_size": (("false",), "use --batch-size"),
    "amp_backend": ((), "use --precision bf16-mixed"),
    "amp_level": ((), "use --precision bf16-mixed"),
    "num_workers": ((), "leave it out: batches are read ahead (or use --data-on-device)"),
    "seed_everything": ((), "use --seed"),
    "grad_clip": ((), "use --gradient-clip-val"),
    "warmup_epochs": (("0",), "use --warmup-steps"),
    "init_lr_ratio": (("1", "1.0"), "use --warmup-steps: rates then rise from 0"),
    "mos_metric": (("none",), "use --metrics-every: what is said is scored (docs/metrics.md)"),
    "callbacks": ((), "use --keep-newest, --keep-best and --stop-when plateau"),
    "limit_predict_batches": ((), "leave it out: infer speaks"),
    "enable_model_summary": (("false",), "leave it out: vits-jax plan tells what a model takes"),
    "inference_mode": (("true",), "leave it out: validation takes no gradients"),
    "use_distributed_sampler": (("true",), "leave it out: devices share each batch"),
    "replace_sampler_ddp": (("true",), "leave it out: devices share each batch"),
    "barebones": (("false",), "use --logger none, --checkpoint-minutes 0 and --metrics-every 0"),
    "plugins": ((), "leave it out: see --precision and --coordinator"),
    "reload_dataloaders_every_n_epochs": (("0",), "leave it out: a dataset is read once"),
    "multiple_trainloader_mode": ((), "leave it out: a run has one dataset"),
    "enable_autolog_hparams": (("true",), "leave it out: the flags are logged"),
    "model_registry": ((), "leave it out: checkpoints are in --run-dir"),
    "weights_only": (("true",), "leave it out: nothing in a checkpoint is run as code"),
    "ipus": ((), "use --accelerator gpu, tpu or cpu"),
    "move_metrics_to_cpu": ((), "leave it out: metrics are numbers, on the host"),
    # Of the model, where there is one way.
    "n_layers_q": (("3",), "leave it out: Piper does not look at it"),
    "use_spectral_norm": (("false",), "leave it out: weights are normed as in every Piper voice"),
    # The dataset's word.
    "sample_rate": ((), "the dataset says it: use preprocess --sample-rate"),
    "num_symbols": ((), "the dataset says it (num_symbols in config.json)"),
    "num_speakers": ((), "the dataset says it (num_speakers in config.json)"),
    # piper1 prepares and trains in one command.
    "csv_path": ((), "use preprocess --input-dir, then train --dataset-dir"),
    "audio_dir": ((), "use preprocess --input-dir, then train --dataset-dir"),
    "cache_dir": ((), "use preprocess --output-dir, then train --dataset-dir"),
    "config_path": ((), "preprocess writes config.json into its --output-dir"),
    "espeak_voice": ((), "use preprocess --language"),
    "voice_name": ((), "leave it out: the file of an exported voice names it"),
    "dataset_type": ((), "use preprocess --dataset-format"),
    "phoneme_type": ((), "use preprocess --phoneme-type"),
    "phonemes_path": ((), "use preprocess --phonemes-path"),
    "trim_silence": (("true",), "use preprocess --no-trim"),
    "keep_seconds_before_silence": ((), "use preprocess --keep-seconds-before-silence"),
    "keep_seconds_after_silence": ((), "use preprocess --keep-seconds-after-silence"),
    "alignments_dir": ((), "leave it out: training finds its own alignments"),
    "vowel_clusters": ((), f"{_NOT_BUILT}: use preprocess --dataset-type phoneme_ids, with yours"),
    "dataset": ((), "use --dataset-dir"),
}

# `infer`'s, from both trainers and from `piper` itself
OTHERS_OF_INFER: Others = {
    "model": ((), "use --checkpoint (a voice.onnx becomes one with vits-jax import-onnx)"),
    "config": ((), "use --voice-config, for a .ckpt: others know their own"),
    "input_file": ((), "use --text, or JSON lines with phoneme_ids or text on stdin"),
    "output_file": ((), "use --output-dir, where line n becomes n.wav, or --output-raw"),
    "output_dir_naming": ((), "leave it out: line n becomes n.wav, from 0"),
    "volume": (("1", "1.0"), "leave it out: the loudest sample is at full scale"),
    "no_normalize": (("false",), "use --sample-format float32: samples as the model gives them"),
    "cuda": (("false",), "leave it out: a GPU is used where JAX has one (vits_jax[cuda])"),
    "data_dir": ((), "use --checkpoint with the whole path"),
    "download_dir": ((), "leave it out: nothing is downloaded"),
    "update_voices": (("false",), "leave it out: nothing is downloaded"),
    "debug": (("false",), "leave it out: what is done is told anyway"),
}


def add_others(parser: Parser, others: Others) -> None:
    """Let `parser` take these flags, with a value or without, for `refuse` to answer."""
    for name in others:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            nargs="?",
            const="true",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def refuse(name: str, value: object, where: str, others: Others = OTHERS) -> None:
    """Raise `UserError` unless `value` asks for what happens anyway; `where` names the source."""
    same, advice = others[name]
    if str(value).lower() not in same:
        raise UserError(f"{where} {value}: {advice}")


def unknown(word: str, ours: Collection[str]) -> str:
    """The complaint about a word that is no flag of `train`; `ours` are our flags, dashed.

    piper1 spells flags with a section (``--model.batch_size``): the answer is our name.
    """
    flag = word.partition("=")[0]
    section, dot, bare = flag.removeprefix("--").partition(".")
    if word == "fit":
        return "unexpected argument 'fit': leave it out, `train` takes flags alone"
    if not dot or section not in ("model", "data", "trainer"):
        return unknown_flag(flag, ours)
    name = dashed(f"--{bare}")
    if name in ours:
        return f"{flag} is piper1's spelling: use {name}"
    if bare.replace("-", "_") in OTHERS:
        return f"{flag}: {OTHERS[bare.replace('-', '_')][1]}"
    near = difflib.get_close_matches(name, list(ours), n=1)
    return f"unknown flag {flag}: " + (f"did you mean {near[0]}?" if near else "no such setting")
