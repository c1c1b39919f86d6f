"""The measurement of an exported voice, beside Piper's own export of the same weights."""

from __future__ import annotations

from argparse import Namespace

from tests.parity.cases import CASES
from vits_jax.benchmarks import voice


def test_beside_pipers_own_export() -> None:
    flags = Namespace(quality="none", peer=True, runs=1, seconds=0.5, threads=1)
    figures = voice.benchmark(flags, CASES["multi-resblock1-sdp"])
    assert figures["peer_difference"] < 1e-4  # so both spoke, and the same
    assert figures["streaming_difference"] < 1e-5
    assert 0.25 < figures["speech_seconds"] < 1
    assert figures["nodes"] < figures["peer_nodes"]
    assert figures["file_bytes"] > 0
    for name in ("rtf", "peer_rtf", "first_audio_seconds", "whole_seconds"):
        assert figures[name] > 0, name
