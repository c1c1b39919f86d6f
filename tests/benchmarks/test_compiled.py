"""What a compiled program is made of, and the least that it could cost."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.cases import QUICK_COMPILATION, smallest
from tests.runs import few_layers
from vits_jax import chips, presets
from vits_jax.benchmarks import accelerator, compiled, parts, precision, training_step
from vits_jax.benchmarks.floor import Cost, floor, part_of
from vits_jax.benchmarks.hlo import operations, turns
from vits_jax.commands import benchmark as command
from vits_jax.doctor import probe
from vits_jax.errors import UserError

# A program as a TPU's compiler writes it: a loop of four turns that slices, and tiles with padding.
TPU = """
HloModule jit_step
%fused (p0: f32[4,1024,8], p1: s32[]) -> f32[1024,8] {
  %p0 = f32[4,1024,8]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %one = f32[1,1024,8]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,1024,8}
  ROOT %all = f32[1024,8]{1,0:T(8,128)} bitcast(%one)
}
%body (s: (s32[], f32[4,1024,8], f32[1024,8])) -> (s32[], f32[4,1024,8], f32[1024,8]) {
  %s = (s32[]{:T(128)}, f32[4,1024,8]{2,1,0:T(8,128)}, f32[1024,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %xs = f32[4,1024,8]{2,1,0:T(8,128)} get-tuple-element(%s), index=1
  %x = f32[1024,8]{1,0:T(8,128)} fusion(%xs, %i), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/transpose(jvp(flow))/x"}
  ROOT %t = (s32[]{:T(128)}, f32[4,1024,8]{2,1,0:T(8,128)}, f32[1024,8]{1,0:T(8,128)}) tuple(%i, %xs, %x)
}
%condition (s: (s32[], f32[4,1024,8], f32[1024,8])) -> pred[] {
  %s = (s32[]{:T(128)}, f32[4,1024,8]{2,1,0:T(8,128)}, f32[1024,8]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(4)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %n), direction=LT
}
ENTRY %main (a: f32[4,1024,8], b: f32[1024,8]) -> f32[1024,8] {
  %a = f32[4,1024,8]{2,1,0:T(8,128)} parameter(0)
  %b = f32[1024,8]{1,0:T(8,128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %s = (s32[]{:T(128)}, f32[4,1024,8]{2,1,0:T(8,128)}, f32[1024,8]{1,0:T(8,128)}) tuple(%zero, %a, %b)
  %loop = (s32[]{:T(128)}, f32[4,1024,8]{2,1,0:T(8,128)}, f32[1024,8]{1,0:T(8,128)}) while(%s), condition=%condition, body=%body
  %x = f32[1024,8]{1,0:T(8,128)} get-tuple-element(%loop), index=2
  %c = bf16[1024,8]{1,0:T(8,128)(2,1)} custom-call(%x), custom_call_target="library", metadata={op_name="jit(step)/jvp(decoder)/y"}
  ROOT %y = bf16[1024,8]{0,1:T(8,128)(2,1)} copy(%c)
}
"""  # noqa: E501 - as it is written
PADDED = 1024 * 128 * 4  # bytes of f32[1024,8]: eight of 128 lanes


def test_a_tpus_program() -> None:
    sliced, call, copy = operations(TPU)
    assert (sliced.kind, sliced.times, part_of(sliced.scope)) == ("fusion", 4, "flow")
    # Reads one of four slices, and which.
    assert sliced.bytes == 2 * PADDED + 4
    assert (call.kind, call.times, part_of(call.scope)) == ("call library", 1, "decoder")
    assert call.bytes == PADDED + PADDED // 2
    assert copy.bytes == PADDED // 2 + 8 * 1024 * 2  # the other way round nothing is padded
    assert turns(TPU) == 4
    summary = compiled.summary([sliced, call, copy])
    assert (summary["operations"], summary["operations_run"]) == (3, 6)
    assert (summary["fusions"], summary["calls"], summary["copies"]) == (1, 1, 1)


def _compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    return jax.jit(function).lower(*arguments).compile(QUICK_COMPILATION)


def test_a_program_of_this_processor() -> None:
    x, w = jnp.ones((4, 64, 32)), jnp.ones((8, 32, 32))

    def scanned(x: jax.Array, w: jax.Array) -> jax.Array:
        with jax.named_scope("flow"):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    found = operations(_compiled(scanned, x, w).as_text())
    assert {operation.times for operation in found if part_of(operation.scope) == "flow"} >= {8}
    costs = floor(jax.jit(scanned).trace(x, w).jaxpr)
    assert costs["flow"].flops == 8 * 2 * 4 * 64 * 32 * 32
    assert costs["flow"].bytes == 8 * 4 * (2 * 4 * 64 * 32 + 32 * 32)


def test_the_floor_of_convolutions() -> None:
    """Gradients too, each as much as the convolution, whatever zeros it is written with."""
    x, w = jnp.ones((2, 64, 12)), jnp.ones((8, 6, 5))

    def conv(x: jax.Array, w: jax.Array) -> jax.Array:
        with jax.named_scope("decoder"):
            return jax.lax.conv_general_dilated(
                x, w, (2,), [(2, 2)], feature_group_count=2, dimension_numbers=("NWC", "OIW", "NWC")
            )

    forward = floor(jax.jit(conv).trace(x, w).jaxpr)["decoder"]
    assert forward.flops == 2 * (2 * 32 * 8) * 6 * 5
    both = floor(jax.jit(jax.grad(lambda *a: conv(*a).sum(), (0, 1))).trace(x, w).jaxpr)["decoder"]
    assert both.flops == 3 * forward.flops  # itself, and to signal and weight
    chip = chips.Chip(flops=1e9, bandwidth=1e6, memory=1 << 30, links=1e6)
    assert Cost(flops=2e9, bytes=1e6).seconds(chip) == 2.0
    assert Cost(flops=1e9, bytes=3e6).seconds(chip) == 3.0


def test_parts_are_told_by_their_scopes() -> None:
    assert part_of("jit(step)/transpose(jvp(discriminator_3))/add") == "discriminator_3"
    assert part_of("jit(step)/jvp(discriminator_loss)/add") == "discriminator_loss"
    assert part_of("jit(step)/optimizer_model_g/mul") == "optimizer"
    assert part_of("jit(step)/overflow/add") == "other"


def test_chips() -> None:
    with pytest.raises(UserError, match="unknown target 'v5x:2x2': expected a TPU slice"):
        chips.described("v5x:2x2")
    with pytest.raises(UserError, match="three sizes, as in v4:2x2x1"):
        chips.described("v4:2x2")
    assert chips.chip_of(jax.devices()[0]) is None


@pytest.mark.parametrize(("target", "extra"), [("v5e:2x2", "tpu"), ("h100x4", "cuda")])
def test_what_compiles_for_a_chip_is_missing(
    target: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf'pip install "vits_jax\[{extra}\]"'):
        chips.described(target)


SIZES = {"quality": "none", "batch_size": 1, "phonemes": 12, "frames": 32}


@pytest.mark.slow
def test_a_whole_step_keeps_its_promises() -> None:
    """On eight devices: nothing is gathered, and every part is there."""
    flags = Namespace(**SIZES, precision="32", target=None, full_effort=False, hlo=None)
    with few_layers(2, 1):
        figures = compiled.benchmark(flags, smallest())
    assert figures["devices"] == 8
    assert figures["all-gather"] == figures["all-to-all"] == 0
    assert figures["all-reduce"] > 0
    assert {"text_encoder", "posterior_encoder", "decoder", "optimizer"} <= set(figures["parts"])
    assert sum(part["operations"] for part in figures["parts"].values()) == figures["operations"]
    assert figures["gflop_per_utterance"] > 0
    assert figures["peak_bytes"] > 0


@pytest.mark.slow
def test_the_parts_on_the_clock() -> None:
    flags = Namespace(**SIZES, precision="32", steps=1)
    with few_layers(2, 1):
        figures = parts.benchmark(flags, smallest())["parts"]
    assert {"spectrogram", "flow", "alignment", "discriminator_0", "optimizer"} <= set(figures)
    for name, part in figures.items():
        assert part["milliseconds"] > 0, name
        assert part["floor_milliseconds"] is None  # no maker tells a processor's peak


@pytest.mark.slow
def test_precisions_beside_float32() -> None:
    flags = Namespace(**SIZES)
    with few_layers(2, 1):
        figures = precision.benchmark(flags, smallest().replaced({"use_sdp": False}))["parts"]
    assert {"enc_p", "enc_q", "flow", "dp", "dec", "discriminators.0"} <= set(figures)
    for name, part in figures.items():
        assert part["32"] == part["tf32"] == 0, name  # a processor has one float32
        assert part["bf16-mixed"] < 0.5, name
    assert figures["enc_q"]["bf16-mixed"] > 0


@pytest.mark.slow
def test_a_sweep_goes_as_far_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = training_step._measured

    def limited(args: Namespace, config: Any) -> dict[str, Any]:
        if args.batch_size > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return measured(args, config)

    monkeypatch.setattr(training_step, "_measured", limited)
    flags = Namespace(
        **SIZES | {"batch_size": 0},
        precision="32",
        sweep=[8, 16, 32],
        steps=1,
        peer=False,
        cache=False,
        freeze=None,
    )
    with few_layers(2, 1):
        figures = training_step.benchmark(flags, smallest())
    assert list(figures["sweep"]) == ["8", "16"]
    assert figures["sweep"]["16"] == {"out_of_memory": True}
    assert figures["batch_size"] == 8
    assert figures["utterances_per_second"] > 0


def test_the_doctors_step_is_this_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same programs as the sweep's, which are compiled: on eight devices, a row each."""
    monkeypatch.setattr(presets, "preset", lambda name: smallest())
    monkeypatch.setattr(probe, "ROWS", 1)
    monkeypatch.setattr(probe, "PHONEMES", SIZES["phonemes"])
    monkeypatch.setattr(probe, "FRAMES", SIZES["frames"])
    with few_layers(2, 1):
        probe.step(0.01)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [figures["about"] for figures in told] == ["devices", "cache", "step"]
    assert told[2]["rows"] == len(told[0]["kinds"]) == 8
    assert told[2]["steps"] >= 2
    assert np.isfinite([told[2][name] for name in ("loss_g", "loss_d", "step_seconds")]).all()


def test_every_stage_of_an_accelerators_figures_is_a_command() -> None:
    stages = list(accelerator.stages("medium", [16, 32, 64], True))
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    assert {f"step-{q}-{p}-{b}" for q in ("medium", "high") for p in ("32", "tf32", "bf16-mixed")
            for b in (16, 32, 64)} <= set(names)  # fmt: skip
    for stage in stages:
        if stage.name != "tests":
            module, *arguments = stage.arguments[1:]
            assert module == "vits_jax.commands"
            flags = command.make_parser().parse([*arguments[1:], "--json", "x"])
            assert flags.command == arguments[1]


@pytest.mark.parametrize("sizes", ["8,x", "0", "8,,16", ""])
def test_batch_sizes_are_numbers(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["step", "--sweep", sizes]) == 2
    assert "expected batch sizes, such as 8,16,32" in capsys.readouterr().err


def test_figures_go_on_where_they_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes: one that gives figures, one that fails, one that there is no time for."""
    figures = {
        "device": "chip", "quality": "demo", "precision": "32", "batch_size": 1, "mfu": None,
        "step_seconds": 0.5, "peer_step_seconds": 1.0, "utterances_per_second": 2.0,
        "peak_bytes": 3_000_000_000,
    }  # fmt: skip
    good = (
        "import json,sys,pathlib;p=pathlib.Path(sys.argv[-1]);"
        f"n=pathlib.Path({str(tmp_path / 'runs')!r});n.open('a').write(p.stem);"
        f"p.write_text(json.dumps({figures!r}))"
    )
    program = {"bad": "raise SystemExit('no such chip')"}

    def stages(*_: Any) -> list[accelerator.Stage]:
        return [
            accelerator.Stage("step-demo-32-1", ("-c", good), {}),
            accelerator.Stage("step-demo-tf32-1", ("-c", program["bad"]), {}),
        ]

    monkeypatch.setattr(accelerator, "stages", stages)
    out = tmp_path / "figures"
    flags = ["accelerator", "--quality", "demo", "--out", str(out), "--json", str(tmp_path / "j")]
    assert command.main([*flags, "--minutes", "0"]) == 0
    assert json.loads((tmp_path / "j").read_text())["left_out"] == [s.name for s in stages()]
    assert command.main(flags) == 0
    assert json.loads((tmp_path / "j").read_text())["failed"] == ["step-demo-tf32-1"]
    assert "no such chip" in (out / "step-demo-tf32-1.log").read_text()
    program["bad"] = good
    assert command.main(flags) == 0
    assert json.loads((tmp_path / "j").read_text())["failed"] == []
    assert (tmp_path / "runs").read_text() == "step-demo-32-1step-demo-tf32-1"
    rows = (out / "table.md").read_text().splitlines()
    assert "| demo-32-1 | 500.0 | 2 | 1,000.0 | 0.5 | not known | 3 |" in rows
    assert capsys.readouterr().out.count("failed, see its log") == 1


def test_tests_that_could_not_run_are_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real pytest that finds nothing, and one in which a test fails."""
    failing = tmp_path / "test_one.py"
    failing.write_text("def test(): assert False\n")
    directory = tmp_path / "figures"
    runs = {"empty": str(tmp_path / "none"), "ran": str(failing)}
    monkeypatch.setattr(
        accelerator,
        "stages",
        lambda *_: [
            accelerator.Stage(name, ("-m", "pytest", "-q", "-p", "no:cacheprovider", path), {})
            for name, path in runs.items()
        ],
    )
    assert command.main(["accelerator", "--out", str(directory)]) == 0
    assert not (directory / "empty.json").exists()
    assert "1 failed" in json.loads((directory / "ran.json").read_text())["summary"]
