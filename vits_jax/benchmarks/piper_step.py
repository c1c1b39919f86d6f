"""Piper's own training step, for `benchmark.py step --peer`: a process of its own.

Reads the configuration as a line of JSON from standard input, then runs one step for every
further line and prints the seconds it took, or for the line "memory" the most bytes so far.
Needs `piper-tts[train]` (the extra ``[test]``).
"""

from __future__ import annotations

import json
import sys
import time
import types
import warnings
from pathlib import Path

import numpy as np
import torch

from vits_jax.benchmarks.alignment_peers import compiled_loop, numpy_path

warnings.filterwarnings("ignore")
search = compiled_loop() or numpy_path


def maximum_path(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Monotonic alignment of full-length rows, on the host as Piper's is.

    Stands in for the compiled module that Piper's wheel lacks: the same loop in C where there is a
    compiler, else numpy over batch and phonemes at once (20 to 30 ms of a step of seconds).
    """
    del mask  # the benchmark's rows are all full
    value = np.ascontiguousarray(scores.detach().float().cpu().numpy())  # [B, F, P]
    batch, frames, phonemes = value.shape
    path = search(value, *(np.full(batch, n, np.int32) for n in (phonemes, frames)))
    return torch.from_numpy(np.eye(phonemes, dtype=np.float32)[path]).to(scores.device)


module = types.ModuleType("piper.train.vits.monotonic_align")
module.maximum_path = maximum_path  # type: ignore[attr-defined]
sys.modules[module.__name__] = module

from piper.train.vits.dataset import Batch  # noqa: E402 - after its missing module is there
from piper.train.vits.lightning import VitsModel  # noqa: E402


def main() -> None:
    """Build the networks, warm up once, then step on request."""
    request = json.loads(sys.stdin.readline())
    model, audio, sizes = request["model"], request["audio"], request["sizes"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = _peak_bytes(device)  # modules are no part of a step
    tf32 = request["precision"] == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # as the old trainer sets it
    torch.manual_seed(0)
    model.pop("discriminator_width")  # Piper's is fixed
    piper = VitsModel(
        batch_size=sizes["batch"], mos_metric=None, learning_rate_d=2e-4, betas_d=(0.8, 0.99),
        **model, **audio,
    ).to(device).train()  # fmt: skip
    (opt_g, opt_d), _ = piper.configure_optimizers()

    rng = np.random.default_rng(0)
    rows, phonemes, frames = sizes["batch"], sizes["phonemes"], sizes["frames"]
    batch = Batch(
        phoneme_ids=torch.from_numpy(rng.integers(0, model["num_symbols"], (rows, phonemes))),
        phoneme_lengths=torch.full((rows,), phonemes),
        spectrograms=torch.rand(rows, audio["filter_length"] // 2 + 1, frames),
        spectrogram_lengths=torch.full((rows,), frames),
        audios=torch.rand(rows, 1, frames * audio["hop_length"]) - 0.5,
        audio_lengths=torch.full((rows,), frames * audio["hop_length"]),
        speaker_ids=torch.zeros(rows, dtype=torch.long) if model["num_speakers"] > 1 else None,
    )
    for name, value in vars(batch).items():
        if value is not None:
            setattr(batch, name, value.to(device))
    autocast = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=request["precision"] == "bf16-mixed"
    )

    def step() -> None:
        with autocast:
            loss_g, loss_d, _ = piper._compute_loss(batch)
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    step()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(_peak_bytes(device) - before, flush=True)
            continue
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def _peak_bytes(device: torch.device) -> int:
    """What the allocator gave out at most (CUDA), or all of this process (CPU)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    # Not `getrusage`: that begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
