"""Flags: how they are spelt, what they mean, what is answered to each mistake."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vits_jax.cli import Parser, run
from vits_jax.commands.foreign_flags import OTHERS
from vits_jax.commands.train import configure, main
from vits_jax.config import FIELDS, FROM_DATASET, NO_FLAGS, Config, read_yaml, write_yaml
from vits_jax.errors import RunFailed, UserError
from vits_jax.presets import preset_names, preset_path

NEEDED = ["--dataset-dir", "data", "--batch-size", "8"]


def test_every_field_has_one_name_one_help_and_no_clash():
    parts = [getattr(Config(), part.name) for part in dataclasses.fields(Config)]
    names = [item.name for part in parts for item in dataclasses.fields(part)]
    assert sorted(names) == sorted(FIELDS)
    assert set(FIELDS) & set(OTHERS) == set(FROM_DATASET)
    assert all(field.help for field in FIELDS.values())


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--max-phoneme-ids", "300"], "max_phoneme_ids", 300),
        (["--max_phoneme_ids", "300"], "max_phoneme_ids", 300),
        (["--max_phoneme-ids=300"], "max_phoneme_ids", 300),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--use-sdp", "false"], "use_sdp", False),
        (["--use-sdp"], "use_sdp", True),
        (["--betas", "0.8,0.99"], "betas", (0.8, 0.99)),
        (["--betas=[0.5, 0.9]"], "betas", (0.5, 0.9)),
        (["--upsample-rates", "[4,8,8]"], "upsample_rates", (4, 8, 8)),
        (["--upsample-rates", "(4, 8, 8)"], "upsample_rates", (4, 8, 8)),
        (["--learning-rate", "1e-4"], "learning_rate", 1e-4),
        (["--resblock_dilation_sizes", "((1, 2), (2, 6), (3, 9))"], "resblock_dilation_sizes",
         ((1, 2), (2, 6), (3, 9))),
        (["--devices", "4"], "devices", 4),
        (["--devices", "auto"], "devices", "auto"),
        (["--devices", "-1"], "devices", "auto"),
        (["--fast_dev_run"], "fast_dev_run", 1),
        (["--fast_dev_run", "7"], "fast_dev_run", 7),
        (["--limit_train_batches", "0.5"], "limit_train_batches", 0.5),
        (["--seed", "1", "--seed", "2"], "seed", 2),
        (["--mel-fmax", "null"], "mel_fmax", None),
        (["--dataset-dir", "2024"], "dataset_dir", "2024"),
    ],
)  # fmt: skip
def test_values(argv, name, value):
    config = configure([*NEEDED, *argv])
    found = getattr(getattr(config, FIELDS[name].section), name)
    assert (found, type(found)) == (value, type(value))


def test_a_number_of_batches_is_not_a_fraction_of_them():
    whole = configure([*NEEDED, "--limit_train_batches", "1"]).run.limit_train_batches
    part = configure([*NEEDED, "--limit_train_batches", "1.0"]).run.limit_train_batches
    assert (type(whole), type(part)) == (int, float)


def test_presets_and_what_wins(tmp_path: Path):
    assert configure([*NEEDED, "--quality", "x-low"]).model.hidden_channels == 96
    assert configure(NEEDED) == configure([*NEEDED, "--quality", "medium"])
    high = configure([*NEEDED, "--quality=high", "--resblock_kernel_sizes", "3,5,7"])
    assert (high.model.resblock, high.model.resblock_kernel_sizes) == ("1", (3, 5, 7))
    file = tmp_path / "mine.yaml"
    file.write_text("hidden-channels: 64\nseed: 5\nresblock: 2\nlearning_rate: 1e-3\n")
    mine = configure([*NEEDED, "--config", str(file), "--seed", "6"])
    assert (mine.model.hidden_channels, mine.run.seed) == (64, 6)
    assert (mine.model.resblock, mine.optimizer.learning_rate) == ("2", 1e-3)


@pytest.mark.parametrize("quality", preset_names())
def test_every_preset_is_possible_and_leaves_the_dataset_its_say(quality):
    assert configure([*NEEDED, "--quality", quality]).data.batch_size == 8
    assert not set(read_yaml(preset_path(quality))) & set(NO_FLAGS)


def test_a_configuration_is_written_and_read_back(tmp_path: Path):
    config = configure([*NEEDED, "--quality", "high", "--betas", "0.5,0.9", "--eps", "1e-8"])
    file = tmp_path / "config.yaml"
    write_yaml(config, file)
    assert configure(["--config", str(file)]) == config
    assert Config.from_dict(config.to_dict(), "here") == config


WRONG = [
    # Spelling
    (["--batch-sise", "4"], "unknown flag --batch-sise: did you mean --batch-size?"),
    (["--batch_sise=4"], "unknown flag --batch-sise: did you mean --batch-size?"),
    (["--batch", "4"], "unknown flag --batch: did you mean --batch-size?"),  # no abbreviations
    (["--xyzzy"], "unknown flag --xyzzy: --help lists the flags"),
    (["stray"], "unexpected argument 'stray'"),
    (["--seed"], "argument --seed: expected one argument"),
    # piper1
    (["--model.batch_size", "4"], "--model.batch-size is piper1's spelling: use --batch-size"),
    (["--trainer.max_epochs=4"], "--trainer.max-epochs is piper1's spelling: use --max-epochs"),
    (["--data.csv_path", "x"], "--data.csv-path: use preprocess --input-dir"),
    (["--data.batchsize", "4"], "unknown flag --data.batchsize: did you mean --batch-size?"),
    (["fit"], "unexpected argument 'fit': leave it out"),
    # Types
    (["--batch-size", "many"], "--batch-size: got 'many', expected whole number"),
    (["--batch-size", "4.5"], "--batch-size: got 4.5, expected whole number"),
    (["--betas", "0.8"], "--betas: got [0.8], expected 2 numbers"),
    (["--upsample-rates", "[8,a]"], "--upsample-rates: got [8, 'a'], expected a list of whole"),
    (["--use-sdp", "perhaps"], "--use-sdp: got 'perhaps', expected true or false"),
    # The dataset's
    (["--sample-rate", "16000"], "--sample-rate 16000: the dataset says it"),
    (["--num_speakers", "2"], "--num-speakers 2: the dataset says it"),
    # Presets
    (["--quality", "medum"], "--quality: no preset 'medum'"),
    (["--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
    (["--quality", "high", "--config", "x"], "expected one of the two"),
]
IMPOSSIBLE = [
    (["--batch-size", "-1"], "--batch-size -1: expected at least 1"),
    (["--batch-size", "0"], "--batch-size 0: expected at least 1"),
    (["--batch-frames", "9000"], "--batch-size 8 and --batch-frames 9000: expected one of the two"),
    (["--batch-size", "null", "--batch-frames", "0"], "--batch-frames 0: expected at least 1"),
    (["--max-frames", "0"], "--max-frames 0: expected at least 1"),
    (["--segment-size", "8000"], "--segment-size 8000: expected a multiple of --hop-length 256"),
    (["--segment-size", "256"], "--segment-size 256: expected at least 385 samples"),
    (["--upsample-rates", "8,8,8"], "--upsample-rates 8,8,8: expected a product of"),
    (["--upsample-kernel-sizes", "16,16"], "--upsample-kernel-sizes 16,16: expected 3 numbers"),
    (["--upsample-kernel-sizes", "16,16,7"], "--upsample-kernel-sizes 16,16,7: expected 3"),
    (["--upsample-rates", "[]"], "--upsample-rates : expected whole numbers"),
    (["--upsample-initial-channel", "100"], "--upsample-initial-channel 100: expected a multiple"),
    (["--hidden-channels", "193"], "--hidden-channels 193: expected a multiple of --n-heads 2"),
    (["--n-heads", "0"], "--n-heads 0: expected at least 1"),
    (["--inter-channels", "191"], "--inter-channels 191: expected an even number"),
    (["--resblock", "3"], "--resblock 3: expected 1 or 2"),
    (["--resblock", "1"], "--resblock-dilation-sizes (1, 2),(2, 6),(3, 12): expected 3 lists of 3"),
    (["--resblock-kernel-sizes", "3,4,7"], "--resblock-kernel-sizes 3,4,7: expected odd numbers"),
    (["--p-dropout", "1"], "--p-dropout 1.0: expected from 0 to below 1"),
    (["--discriminator-width", "48"], "--discriminator-width 48: expected a power of two"),
    (
        ["--use-mrd", "--segment-size", "768"],
        "--segment-size 768: expected at least 905 samples with --use-mrd",
    ),
    (["--win-length", "2048"], "--win-length 2048: expected at most --filter-length 1024"),
    (["--mel-fmin", "9000", "--mel-fmax", "8000"], "--mel-fmin 9000.0: expected"),
    (["--mel-fmax", "12000"], "--mel-fmax 12000.0: expected at most half the sample rate"),
    (["--learning-rate", "-1"], "--learning-rate -1.0: expected a finite number"),
    (["--learning-rate-d", ".inf"], "--learning-rate-d inf: expected a finite number"),
    (["--betas", "0.8,1"], "--betas 0.8,1.0: expected two numbers from 0 to below 1"),
    (["--eps", "0"], "--eps 0.0: expected a finite number above 0"),
    (["--validation-split", "1"], "--validation-split 1.0: expected from 0 to below 1"),
    (["--num-test-examples", "-1"], "--num-test-examples -1: expected at least 0"),
    (["--num-buckets", "0"], "--num-buckets 0: expected at least 1"),
    (["--max_steps", "-2"], "--max-steps -2: expected at least -1"),
    (["--limit_train_batches", "0"], "--limit-train-batches 0: expected a fraction"),
    (["--limit_train_batches", "1.5"], "--limit-train-batches 1.5: expected a fraction"),
    (["--checkpoint-epochs", "0"], "--checkpoint-epochs 0: expected at least 1"),
    (["--keep-newest", "0"], "--keep-newest 0: expected at least 1, or -1"),
    (["--seed", "-1"], "--seed -1: expected from 0"),
    (["--accelerator", "npu"], "--accelerator npu: expected one of auto, cpu, gpu, tpu"),
    (["--devices", "0"], "--devices 0: expected a number of devices"),
    (["--devices", "0,1"], "--devices 0,1: expected a number of devices"),
    (["--precision", "16-mixed"], "--precision 16-mixed: expected bf16-mixed: as fast"),
    (["--precision", "64"], "--precision 64: expected one of auto, 32, tf32, bf16-mixed"),
    (["--accumulate_grad_batches", "0"], "--accumulate-grad-batches 0: expected at least 1"),
    (["--gradient_clip_val=-1"], "--gradient-clip-val -1.0: expected a finite number, at least 0"),
    (["--gradient_clip_algorithm", "l1"], "--gradient-clip-algorithm l1: expected norm or value"),
    (["--num_nodes", "2"], "--num-nodes 2: expected --coordinator and --node-rank with it"),
    (
        ["--coordinator=host", "--num_nodes=2", "--node_rank=0"],
        "--coordinator host: expected HOST:PORT",
    ),
    (
        ["--coordinator=host:1", "--num_nodes=2", "--node_rank=2"],
        "--node-rank 2: expected less than --num-nodes 2",
    ),
    (["--max_time", "12:00"], "--max-time 12:00: expected DD:HH:MM:SS"),
    (["--max_time", "00:00:00:00"], "--max-time 00:00:00:00: expected DD:HH:MM:SS"),
]
NOT_BUILT = [
    (["--auto_select_gpus", "True"], "--auto-select-gpus True: use --devices"),
    (["--gpus", "1"], "--gpus 1: use --accelerator gpu --devices N"),
    (["--warmstart_ckpt", "a", "--resume_from_checkpoint", "b"], "expected one of them"),
]


@pytest.mark.parametrize(("argv", "expected"), [*WRONG, *IMPOSSIBLE, *NOT_BUILT])
def test_mistakes_end_with_exit_code_2_and_one_line(argv, expected, capsys):
    assert main([*NEEDED, *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert expected in captured.err


@pytest.mark.parametrize("left_out", ["--dataset-dir", "--batch-size"])
def test_what_must_be_given(left_out, capsys):
    pairs = [NEEDED[:2], NEEDED[2:]]
    given = list(itertools.chain(*(pair for pair in pairs if pair[0] != left_out)))
    assert main(given) == 2
    assert f"{left_out} is missing" in capsys.readouterr().err


def test_one_way_to_say_how_large_batches_are_takes_the_place_of_a_files(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    for given, other, flag in (
        ("batch_size: 4", "batch_frames", "--batch-frames=9000"),
        ("batch_frames: 9000", "batch_size", "--batch-size=4"),
    ):
        file.write_text(given)
        asked = ["--dataset-dir", "data", "--config", str(file)]
        assert getattr(configure(asked).data, other) is None
        assert getattr(configure([*asked, flag]).data, other) == int(flag.partition("=")[2])
    assert configure([*NEEDED[:2], "--quality=demo", "--batch-frames=9000"]).data.batch_size is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "batch_sise: 4\n",
            "mine.yaml: batch_sise: unknown flag --batch_sise: did you mean --batch-size?",
        ),
        ("seed: [1\n", "mine.yaml is not YAML"),
        ("- 1\n", "got list, expected `flag: value` lines"),
        ("seed: x\n", "mine.yaml: seed: got 'x', expected whole number"),
        ("precision: 16\n", "--precision 16: expected bf16-mixed"),
        ("sample_rate: 16000\n", "mine.yaml: sample_rate 16000: the dataset says it"),
    ],
)
def test_mistakes_in_a_file_name_it(tmp_path: Path, text, expected, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main([*NEEDED, "--config", str(file)]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--precision", "auto"],
        ["--accumulate_grad_batches", "1"],
        ["--strategy", "auto"],
    ],
)
def test_asking_for_what_happens_anyway(argv):
    assert configure([*NEEDED, *argv]) == configure(NEEDED)


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    ours = {f"--{name.replace('_', '-')}" for name in FIELDS if name not in NO_FLAGS}
    assert shown == ours | {"--quality", "--config", "--version"}


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"vits_jax \d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("this flag"), 2, "error: this flag\n"),
        (RunFailed("step 3: not finite"), 1, "failed: step 3: not finite\n"),
        (OSError(28, "No space left on device"), 1, "failed: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(error, code, said, capsys):
    def command(argv):
        raise error

    assert run(command, []) == code
    assert capsys.readouterr().err == said
    assert run(lambda argv: None, []) == 0


def test_any_command_can_use_the_parser():
    parser = Parser("speak", "Says something.")
    parser.add_argument("--to-speaker", type=int)
    assert parser.parse(["--to_speaker=3"]).to_speaker == 3
    with pytest.raises(UserError, match=r"unknown flag --to-speker: did you mean --to-speaker\?"):
        parser.parse(["--to_speker=3"])


UNRAISABLE = """
import sys
from vits_jax.cli import run

class Late:
    def __init__(self, message):
        self.message = message
    def __del__(self):
        raise RuntimeError(self.message)

def command(argv):
    Late("Event loop is closed")
    Late("something else")

sys.exit(run(command))
"""


def test_what_orbax_leaves_behind_is_not_shown_and_all_else_is() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", UNRAISABLE], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0
    assert ended.stderr.count("Traceback") == 1
    assert "something else" in ended.stderr
