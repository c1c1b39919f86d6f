"""What a step takes of chips that are not here: a tiny one, on this machine's processor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from tests.parity.cases import smallest
from tests.runs import few_layers
from vits_jax import chips
from vits_jax.benchmarks import slices
from vits_jax.commands.plan import main
from vits_jax.config import Config
from vits_jax.errors import UserError
from vits_jax.model.networks import parameter_shapes

CHIP = chips.Chip(flops=1e9, bandwidth=1e9, memory=1 << 30, links=1e8)


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    with few_layers(1, 1):
        yield smallest().replaced({"use_sdp": False, "batch_size": 8})


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four chips, which are processors."""
    monkeypatch.setattr(slices, "described", lambda topology: jax.devices("cpu")[:4])
    monkeypatch.setattr(slices, "chip_of", lambda device: CHIP)


@pytest.mark.slow
def test_figures(config: Config, four: None) -> None:
    found = slices.figures(config, "four", 12, 32, hours=0.1, price=2.0)
    size = 4 * sum(
        int(jax.numpy.prod(jax.numpy.array(shape)))
        for shapes in parameter_shapes(config).values()
        for shape in shapes.values()
    )
    assert found["chips"] == 4
    assert found["all_gather_bytes"] == 0
    assert size <= found["all_reduce_bytes"] <= 1.05 * size  # gradients, losses, counts
    assert found["peak_bytes_per_chip"] > 3 * size  # parameters and two moments at least
    times = found["seconds_at_peaks"]
    assert times["all_reduce"] == pytest.approx(2 * 3 / 4 * found["all_reduce_bytes"] / CHIP.links)
    assert times["memory"] == pytest.approx(found["bytes_per_chip"] / CHIP.bandwidth)
    step = max(times["compute"], times["memory"]) + times["all_reduce"]
    assert found["step_seconds_at_peaks"] == pytest.approx(step)
    frames = 360 * config.audio.sample_rate / config.audio.hop_length
    assert found["steps_per_epoch"] == -(-frames // (8 * 32))
    cost = found["steps_per_epoch"] * step / 3600 * 4 * 2.0
    assert found["epoch_cost_at_peaks"] == pytest.approx(cost)


def test_the_largest_batch(config: Config, four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the straight line through what two sizes take."""
    fixed, row = 200_000_000, 1_000_000

    def compiled(config: Config, mesh: Any, size: int, *shape: int) -> dict[str, float]:
        found = {"peak_bytes_per_chip": fixed + size * row, "gflop_per_chip": 1.0}
        return found | {"bytes_per_chip": 1e6, "all_reduce_bytes": 10, "all_gather_bytes": 0}

    monkeypatch.setattr(slices, "_compiled", compiled)
    found = slices.figures(config, "four", 12, 32, largest=True)
    assert found["largest_batch_size"] == ((1 << 30) - fixed) // row // 4 * 4


def test_rows_that_do_not_divide(config: Config, four: None) -> None:
    with pytest.raises(UserError, match="--batch-size 6: expected a multiple of the 4 devices"):
        slices.figures(config.replaced({"batch_size": 6}), "four", 12, 32)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: dict[str, Any] = {}

    def figures(config: Config, **more: Any) -> dict[str, Any]:
        asked.update(more)
        times = {"compute": 0.01, "memory": 0.03, "all_reduce": 0.002}
        return {
            **{"chips": 8, "topology": "v5e:2x4", "precision": "bf16-mixed", "batch_size": 128},
            **{"phonemes": 150, "frames": 600, "chip_bytes": 16 << 30},
            **{"peak_bytes_per_chip": 2_000_000_000, "gflop_per_chip": 2100.0},
            **{"bytes_per_chip": 2e10, "all_reduce_bytes": 280_000_000, "all_gather_bytes": 0},
            **{"compile_seconds": 200.0, "seconds_at_peaks": times, "all_reduce_share": 0.06},
            **{"step_seconds_at_peaks": 0.032, "steps_per_epoch": 100},
            **{"epoch_seconds_at_peaks": 3.2, "epoch_cost_at_peaks": 0.5},
        }

    monkeypatch.setattr(slices, "figures", figures)
    file = tmp_path / "plan.json"
    argv = ["--topology=v5e:2x4", "--quality=medium", "--batch-size=128", f"--json={file}"]
    assert main([*argv, "--frames=700", "--hours=24", "--price=1.2"]) == 0
    said = capsys.readouterr().out
    assert "8 of v5e:2x4" in said
    assert "280.0 MB all-reduced, 0.0 MB all-gathered" in said
    assert "100 steps, 3.2 s or more, for 0.50 or more" in said
    assert asked == {
        **{"topology": "v5e:2x4", "phonemes": 150, "frames": 700},
        **{"hours": 24.0, "price": 1.2},
    }
    assert json.loads(file.read_text())["chips"] == 8


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--frames=600", "--batch-size=8"], "--frames: expected --topology with it"),
        (["--topology=v5e:2x2", "--price=1", "--batch-size=8"], "--price: expected --hours"),
        (["--topology=v9:2x2", "--batch-size=8"], "unknown target 'v9:2x2'"),
        (["--topology=v4:2x2", "--batch-size=8"], "a v4 slice has three sizes"),
        (["--topology=v5e:2x2", "--batch-frames=9000"], "--batch-size is missing: --topology"),
    ],
)
def test_refused(argv: list[str], said: str, capsys: Any) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err
