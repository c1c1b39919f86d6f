"""The ONNX graph against Piper's own modules, in onnxruntime."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.parity import oracle
from tests.parity.cases import CASES, tiny
from tests.parity.comparing import assert_close
from tests.parity.injected import injected_into_oracle, noise
from vits_jax.model.networks import GENERATOR, parameter_shapes
from vits_jax.presets import preset
from vits_jax.voice import graph
from vits_jax.voice.graph import Names
from vits_jax.voice.verify import session, with_durations

BOUND = 1e-5
LENGTHS = (1, 7, 23)
# Longer heads and kernels than the other cases have; an even one, as Piper pads it.
ODD = tiny(speakers=2).replaced(
    {"n_heads": 4, "kernel_size": 4, "upsample_rates": (8, 2), "upsample_kernel_sizes": (16, 4)}
)
ALL = CASES | {"odd": ODD}


@functools.cache
def network(name: str) -> oracle.models.SynthesizerTrn:
    """The oracle's, speaking phonemes of some frames."""
    config = ALL[name]
    theirs = oracle.randomize(oracle.generator(config.model, config.audio), 1, gain=1.5)
    with torch.no_grad():
        if config.model.use_sdp:
            theirs.dp.flows[0].m[0] -= 1.0
        else:
            theirs.dp.proj.bias += 1.0
    return theirs


@functools.cache
def model(name: str) -> onnx.ModelProto:
    return graph.whole(ALL[name], oracle.flat(network(name)))


@functools.cache
def voice(name: str) -> Any:
    return session(with_durations(model(name)))


def inputs(name: str, lengths: tuple[int, ...], scales: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Random ids in ragged rows, speakers in turn."""
    rng, config = np.random.default_rng(sum(lengths)), ALL[name].model
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(0, config.num_symbols, length)
    given = {
        Names.IDS: ids,
        Names.LENGTHS: np.asarray(lengths),
        Names.SCALES: np.asarray(scales, np.float32),
    }
    if config.num_speakers > 1:
        given[Names.SPEAKER] = (np.arange(len(lengths)) + sum(lengths)) % config.num_speakers
    return given


def theirs(name: str, given: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The oracle's audio ``[B, 1, 1, samples]`` and durations ``[B, 1, P]``."""
    sid = given.get(Names.SPEAKER)
    noise_scale, length_scale, noise_w = given[Names.SCALES].tolist()
    with torch.no_grad():
        audio, path, _, _ = network(name).infer(
            torch.from_numpy(given[Names.IDS]),
            torch.from_numpy(given[Names.LENGTHS]),
            sid=None if sid is None else torch.from_numpy(sid),
            noise_scale=noise_scale,
            length_scale=length_scale,
            noise_scale_w=noise_w,
        )
    return audio[:, None].numpy(), path.sum(2).numpy()


def assert_same(name: str, given: dict[str, np.ndarray], got: list[np.ndarray]) -> None:
    audio, durations = theirs(name, given)
    np.testing.assert_array_equal(got[1], durations)
    assert got[0].shape == audio.shape
    assert_close(got[0], audio, BOUND)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("length", LENGTHS)
def test_without_noise(name: str, length: int) -> None:
    for length_scale in (0.7, 1.0, 2.3):
        given = inputs(name, (length,), (0.0, length_scale, 0.0))
        assert_same(name, given, voice(name).run([Names.AUDIO, Names.DURATIONS], given))


@pytest.mark.parametrize("name", ALL)
def test_a_batch_as_piper_runs_it(name: str) -> None:
    given = inputs(name, (9, 17, 4), (0.0, 1.2, 0.0))
    assert_same(name, given, voice(name).run([Names.AUDIO, Names.DURATIONS], given))


@pytest.mark.parametrize("name", ALL)
def test_with_the_same_noise(name: str) -> None:
    """The graph's own noise replaced by the oracle's: its shapes, scales and places are right."""
    injected = with_durations(model(name))
    places = [node for node in injected.graph.node if node.op_type == "RandomNormalLike"]
    for node, kind in zip(places, ("dp", "prior") if len(places) == 2 else ("prior",)):
        injected.graph.node.remove(node)
        injected.graph.input.append(
            onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, [None] * 3)
        )
        node.name = kind
    given = inputs(name, (9, 13), (0.667, 1.1, 0.8))
    with injected_into_oracle(randn_like="prior"):
        audio, durations = theirs(name, given)
    channels = ALL[name].model.inter_channels
    drawn = {
        "dp": noise("dp", 2, (13, 2)),
        "prior": noise("prior", 2, (int(durations.sum((1, 2)).max()), channels)).swapaxes(1, 2),
    }
    feeds = {node.output[0]: drawn[node.name].astype(np.float32) for node in places}
    got = session(injected).run([Names.AUDIO, Names.DURATIONS], given | feeds)
    np.testing.assert_array_equal(got[1], durations)
    assert_close(got[0], audio, BOUND)


def test_noise_is_new_each_time() -> None:
    given = inputs("single-resblock2-plain", (9,), (0.667, 1.0, 0.8))
    a, b = (voice("single-resblock2-plain").run([Names.AUDIO], given)[0] for _ in range(2))
    assert a.shape == b.shape
    assert np.abs(a - b).max() > 1e-3


def test_one_speaker_for_a_whole_batch() -> None:
    """Piper's own export takes one ``sid``, whatever the batch."""
    name = "multi-resblock1-sdp"
    given = inputs(name, (5, 5), (0.0, 1.0, 0.0))
    both = given | {Names.SPEAKER: np.asarray([2, 2])}
    one = given | {Names.SPEAKER: np.asarray([2])}
    run = functools.partial(voice(name).run, [Names.AUDIO])
    np.testing.assert_allclose(run(one)[0], run(both)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["single-resblock2-sdp", "multi-resblock1-plain"])
@pytest.mark.parametrize("alignments", [False, True])
def test_names_types_and_shapes_are_pipers(name: str, alignments: bool) -> None:
    made = graph.whole(ALL[name], oracle.flat(network(name)), alignments=alignments)
    onnx.checker.check_model(made, full_check=True)
    assert [(o.domain, o.version) for o in made.opset_import] == [("", 15)]
    values = session(made)
    expected = [
        ("input", "tensor(int64)", ["batch", "phonemes"]),
        ("input_lengths", "tensor(int64)", ["batch"]),
        ("scales", "tensor(float)", [3]),
    ]
    if name.startswith("multi"):
        expected.append(("sid", "tensor(int64)", ["batch"]))
    assert [(i.name, i.type, i.shape) for i in values.get_inputs()] == expected
    outputs = [("output", "tensor(float)", ["batch", 1, 1, "samples"])]
    if alignments:
        outputs.append(("durations", "tensor(float)", ["batch", 1, "phonemes"]))
    assert [(o.name, o.type, o.shape) for o in values.get_outputs()] == outputs
    assert [n.output[0] for n in made.graph.node if n.op_type == "Ceil"] == ["durations"]


@pytest.mark.parametrize(
    ("quality", "speakers"),
    [*itertools.product(["x-low", "medium", "high"], [1, 4]), ("high-44k", 1)],
)
def test_few_nodes_and_every_tensor_used(quality: str, speakers: int) -> None:
    config = preset(quality).replaced({"num_speakers": speakers})
    shapes = parameter_shapes(config)[GENERATOR]
    ones = np.ones(1, np.float32)
    weights = {name: np.broadcast_to(ones, shape) for name, shape in shapes.items()}
    asked: set[str] = set()

    class Asked(dict[str, np.ndarray]):
        def __getitem__(self, name: str) -> np.ndarray:
            asked.add(name)
            return super().__getitem__(name)

    made = graph.whole(config, Asked(weights))
    assert len(made.graph.node) <= 2500
    # Training alone needs the posterior and the way from durations to noise.
    training = ("enc_q.", "dp.post_", "dp.flows.1.")
    unused = {name for name in set(weights) - asked if not name.startswith(training)}
    assert unused == set()
    size = sum(math.prod(array.dims) for array in made.graph.initializer)
    assert size == pytest.approx(sum(math.prod(shapes[name]) for name in asked), rel=0.01)


def test_ids_and_speakers_that_there_are_not() -> None:
    """Such a run fails; it never speaks from memory that is not the table's."""
    given = inputs("multi-resblock1-sdp", (5,), (0.0, 1.0, 0.0))
    for name, value in ((Names.IDS, np.full((1, 5), 24)), (Names.SPEAKER, np.asarray([3]))):
        with pytest.raises(Exception, match="Gather"):
            voice("multi-resblock1-sdp").run(None, given | {name: value})
