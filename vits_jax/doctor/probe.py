"""``python -m vits_jax.doctor.probe PART``: one part tried; JSON lines on stdout tell of it.

A process of its own, for what may crash (a library that does not fit the processor) or
hang (a driver).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from argparse import Namespace
from typing import Any

from vits_jax.ending import end

ROWS, PHONEMES, FRAMES = 2, 40, 100  # rows for each device: a second of speech or two


def tell(about: str, **figures: Any) -> None:
    """A line for who started this process."""
    print(json.dumps({"about": about} | figures), flush=True)


def step(seconds: float) -> None:
    """The devices, the cache of programs, and training steps of the demo model."""
    import jax

    from vits_jax.device_memory import capacity, host_room

    devices = jax.local_devices()
    tell(
        "devices",
        backend=jax.default_backend(),
        kinds=[device.device_kind for device in devices],
        bytes=capacity(devices[0]),
        host_bytes=host_room(),
    )
    from vits_jax import program_cache
    from vits_jax.compilation import local_directory, use_cache

    use_cache()
    directory = local_directory()
    size = 0 if directory is None else program_cache.size(directory)
    place = jax.config.values["jax_compilation_cache_dir"]
    tell("cache", place=place, bytes=size, local=directory is not None)
    if seconds:
        tell("step", **_steps(seconds, len(devices)))


def _steps(seconds: float, devices: int) -> dict[str, Any]:
    import numpy as np

    from vits_jax.benchmarks.training_step import Step
    from vits_jax.presets import preset

    sizes = Namespace(batch_size=ROWS * devices, phonemes=PHONEMES, frames=FRAMES, cache=True)
    one = Step(sizes, preset("demo"))
    taken = [one()]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        taken.append(one())
    losses = {name: float(np.asarray(one.metrics[name])) for name in ("loss_g", "loss_d")}
    return losses | {
        "rows": sizes.batch_size,
        "compile_seconds": one.compile_seconds,
        "step_seconds": statistics.median(taken[1:] or taken),
        "steps": len(taken),
    }


def audio() -> None:
    """A sound written, read, brought to another rate, and searched for speech."""
    import io

    import numpy as np
    import soundfile
    import soxr

    from vits_jax.data.corpora.audio_files import VAD_RATE, make_vad, speech_seconds

    samples = np.sin(np.arange(22050, dtype=np.float32) / 10)
    formats = []
    for name in ("WAV", "FLAC", "OGG", "MP3"):
        if name in soundfile.available_formats():
            file = io.BytesIO()
            soundfile.write(file, samples, 22050, format=name)
            file.seek(0)
            soundfile.read(file)
            formats.append(name)
    speech_seconds(soxr.resample(samples, 22050, VAD_RATE), make_vad())
    tell("audio", formats=formats, libsndfile=soundfile.__libsndfile_version__)


def phonemes() -> None:
    """A word through espeak-ng, and its ids."""
    from vits_jax.text import default_phoneme_id_map, make_phonemizer, phonemes_to_ids

    sentences = make_phonemizer("espeak", "en-us")("Hello.")
    ids, missing = phonemes_to_ids(sentences, default_phoneme_id_map())
    tell("phonemes", phonemes=" ".join(sentences[0]), ids=len(ids), missing=len(missing))


def export() -> None:
    """A graph of one node, run by onnxruntime."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "one", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"x": np.ones(1, np.float32)})
    tell("export", result=float(result[0]), onnxruntime=onnxruntime.__version__)


if __name__ == "__main__":
    if sys.argv[1] == "step":
        step(float(sys.argv[2]))
    else:
        {"audio": audio, "phonemes": phonemes, "export": export}[sys.argv[1]]()
    end(0)  # threads that compile may be at work, and Python would wait for them
