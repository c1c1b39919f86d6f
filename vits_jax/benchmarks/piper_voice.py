"""Piper's own ONNX export, for `benchmark.py voice --peer`: a process of its own.

Reads a line of JSON from standard input (configuration, file of weights, file to write),
writes the voice and prints its number of nodes. Needs `piper-tts[train]` (the extra
``[test]``). What `piper.train.export_onnx` does to a checkpoint is done here to weights, by
torch's older exporter: the one that it asks for fails on this network since torch 2.9.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import onnx
import torch

warnings.filterwarnings("ignore")

from piper.train.vits.models import SynthesizerTrn  # noqa: E402 - after its warnings are off


def main() -> None:
    """Build the network, fill it, export it."""
    request = json.loads(sys.stdin.readline())
    model, audio = request["model"], request["audio"]
    for name in ("num_symbols", "num_speakers", "segment_size"):
        request[name] = model.pop(name)
    for name in ("discriminator_width", "use_mrd"):  # no part of a voice
        model.pop(name)
    network = SynthesizerTrn(
        n_vocab=request["num_symbols"],
        n_speakers=request["num_speakers"],
        spec_channels=audio["filter_length"] // 2 + 1,
        segment_size=request["segment_size"] // audio["hop_length"],
        **model,
    ).eval()
    weights = np.load(request["weights"])
    network.load_state_dict({name: torch.tensor(weights[name]) for name in weights.files})
    with torch.no_grad():
        network.dec.remove_weight_norm()

    def forward(ids: Any, lengths: Any, scales: Any, sid: Any = None) -> Any:
        audio = network.infer(
            ids,
            lengths,
            sid=sid,
            noise_scale=scales[0],
            length_scale=scales[1],
            noise_scale_w=scales[2],
        )[0]
        return audio.unsqueeze(1)

    network.forward = forward
    example = (
        torch.randint(0, request["num_symbols"], (1, 50)),
        torch.tensor([50]),
        torch.tensor([0.667, 1.0, 0.8]),
        torch.tensor([0]) if request["num_speakers"] > 1 else None,
    )
    torch.onnx.export(
        network,
        example,
        request["output"],
        dynamo=False,
        opset_version=15,
        input_names=["input", "input_lengths", "scales", "sid"],
        output_names=["output"],
        dynamic_axes={
            "input": {0: "batch_size", 1: "phonemes"},
            "input_lengths": {0: "batch_size"},
            "output": {0: "batch_size", 2: "time"},
        },
    )
    print(len(onnx.load(request["output"]).graph.node))


if __name__ == "__main__":
    main()
