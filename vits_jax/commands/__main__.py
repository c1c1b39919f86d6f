"""``vits-jax COMMAND``: every command, by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from vits_jax.cli import run, unknown_command, version

COMMANDS = {
    "train": "train a voice on a dataset directory",
    "plan": "say what train would do, and compile it beforehand",
    "preprocess": "prepare a corpus: a dataset directory",
    "check": "say what is wrong with a corpus, or with a dataset directory",
    "gather": "make a corpus of recordings: texts beside them or recognised, long ones cut",
    "voice": "from a folder of recordings to a voice, with a warm start, in one command",
    "infer": "speak: phoneme ids or texts to speech",
    "export-onnx": "write a checkpoint as a voice for Piper's runtimes",
    "voice-conversion": "say a recording in another speaker's voice",
    "extract-speaker": "make a checkpoint of one speaker of several, or of a mixture",
    "import-torch": "make a checkpoint of a Piper .ckpt",
    "export-torch": "write a checkpoint as a .ckpt that Piper trains on",
    "import-onnx": "make a checkpoint of a Piper voice",
    "evaluate": "say how good a voice is, beside recordings",
    "benchmark": "measure, side by side with the alternative",
    "doctor": "say what is installed and works, and what mends the rest",
    "completion": "print what completes commands and flags in a shell",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The script; returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    name = words[0] if words else "--help"
    if name not in COMMANDS:
        return run(_answer, words[:1])
    command = importlib.import_module(f"vits_jax.commands.{name.replace('-', '_')}")
    if argv is not None:
        return command.main(words[1:])
    # The whole process is the command's, which reads its arguments where every process does.
    sys.argv = [f"{Path(sys.argv[0]).name} {name}", *words[1:]]
    return command.main()


def _answer(words: Sequence[str]) -> None:
    """What is not a command: help, the version, a mistake."""
    if words and words[0] == "--version":
        print(f"vits_jax {version()}")
        return
    if words and words[0] not in ("-h", "--help"):
        raise unknown_command(words[0], COMMANDS)
    print("usage: vits-jax COMMAND [--help] ...\n\nTrain Piper voices.\n")
    for name, what in COMMANDS.items():
        print(f"  {name:18s}{what}")


if __name__ == "__main__":
    sys.exit(main())
