"""What Piper's trainers call their flags, for the book's page on moving from them.

Names alone. Those of piper1 are what `piper.train` and Lightning of the tests' environment take
(`tests/test_book.py` holds the two side by side), those of the old trainer what
``python3 -m piper_train`` and its Lightning (1.7) took.
"""

from __future__ import annotations

PIPER1_MODEL = (
    *("batch_size", "sample_rate", "num_symbols", "num_speakers", "resblock"),
    *("resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates"),
    *("upsample_initial_channel", "upsample_kernel_sizes", "filter_length", "hop_length"),
    *("win_length", "mel_channels", "mel_fmin", "mel_fmax", "inter_channels", "hidden_channels"),
    *("filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout", "n_layers_q"),
    *("use_spectral_norm", "gin_channels", "use_sdp", "segment_size", "use_mrd"),
    *("learning_rate", "learning_rate_d", "betas", "betas_d", "eps", "lr_decay", "lr_decay_d"),
    *("init_lr_ratio", "warmup_epochs", "c_mel", "c_kl", "grad_clip"),
    *("vocoder_warmstart_ckpt", "warmstart_ckpt", "mos_metric", "dataset"),
)
PIPER1_DATA = (
    *("csv_path", "cache_dir", "espeak_voice", "config_path", "voice_name", "sample_rate"),
    *("audio_dir", "alignments_dir", "num_symbols", "num_speakers", "batch_size"),
    *("validation_split", "num_test_examples", "filter_length", "hop_length", "win_length"),
    *("segment_size", "num_workers", "trim_silence", "keep_seconds_before_silence"),
    *("keep_seconds_after_silence", "phonemes_path", "phoneme_type", "vowel_clusters"),
    *("dataset_type",),
)
LIGHTNING = (
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "callbacks"),
    *("fast_dev_run", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
    *("overfit_batches", "val_check_interval", "check_val_every_n_epoch"),
    *("num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing"),
    *("enable_progress_bar", "enable_model_summary", "accumulate_grad_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark"),
    *("inference_mode", "use_distributed_sampler", "profiler", "detect_anomaly", "barebones"),
    *("plugins", "sync_batchnorm", "reload_dataloaders_every_n_epochs", "default_root_dir"),
    *("enable_autolog_hparams", "model_registry"),
)
PIPER1_OTHER = ("seed_everything", "ckpt_path", "config")

OLD = (
    *("dataset_dir", "checkpoint_epochs", "quality", "resume_from_single_speaker_checkpoint"),
    *("resume_from_checkpoint", "seed", "batch_size", "validation_split", "num_test_examples"),
    *("max_phoneme_ids", "hidden_channels", "inter_channels", "filter_channels", "n_layers"),
    "n_heads",
)
OLD_LIGHTNING = (
    *("gpus", "auto_select_gpus", "tpu_cores", "ipus", "num_processes", "weights_save_path"),
    *("track_grad_norm", "replace_sampler_ddp", "auto_lr_find", "auto_scale_batch_size"),
    *("amp_backend", "amp_level", "move_metrics_to_cpu", "multiple_trainloader_mode"),
)
"""Of Lightning 1.7, what later ones lack."""

OLD_PREPROCESS = (
    *("input_dir", "output_dir", "language", "sample_rate", "dataset_format", "cache_dir"),
    *("max_workers", "single_speaker", "speaker_id", "phoneme_type", "text_casing"),
    *("dataset_name", "audio_quality", "tashkeel", "skip_audio", "debug"),
)
OLD_INFER = (
    *("checkpoint", "output_dir", "sample_rate", "noise_scale", "noise_w", "length_scale"),
)

DIFFERENT = {
    "batch_size": "of all devices together; Lightning's is of each",
    "max_steps": "counts batches; Lightning's counts both networks' updates, so halve yours",
    "max_epochs": "without it and `--max_steps` 1000, as in the old trainer; -1 is no limit",
    "precision": "`16` is not there: `bf16-mixed`, or `auto`",
    "validation_split": "about that share, chosen by what an utterance is: a corpus may grow",
    "resume_from_checkpoint": "goes on with the checkpoint's optimizer; rates that you give win. "
    "For new recordings `--warmstart_ckpt` is meant",
    "warmstart_ckpt": "takes narrower voices and other rates too",
    "check_val_every_n_epoch": "without it as often as takes 2.5 % of the time",
    "checkpoint_epochs": "without it by the clock (`--checkpoint-minutes`)",
    "learning_rate_d": "2e-4 as in the old trainer; piper1 has 1e-4",
    "betas_d": "(0.8, 0.99) as in the old trainer; piper1 has (0.5, 0.9)",
    "lr_decay": "is applied each epoch, as in the old trainer; piper1 never applies it",
    "logger": "a name: tensorboard, wandb, mlflow, csv, none",
}
"""What a flag of the same name does in another way."""
