"""Files that are not Piper's checkpoints, or damaged: refused by name, and nothing is run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from tests.checkpoints.piper.ckpts import ckpt, write
from vits_jax.checkpoints.piper import reading as piper
from vits_jax.checkpoints.piper.convert import import_ckpt
from vits_jax.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(ckpt(), tmp_path_factory.mktemp("ckpt") / "voice.ckpt")


def remove(values: Any) -> None:
    del values["state_dict"]["model_g.flow.flows.0.pre.weight"]
    values["state_dict"]["model_g.extra"] = torch.ones(3)
    values["state_dict"]["model_d.discriminators.0.conv_post.bias"] = torch.ones(7)


def integers(values: Any) -> None:
    name = "model_g.enc_p.emb.weight"
    values["state_dict"][name] = values["state_dict"][name].to(torch.int32)
    values["state_dict"]["model_g.enc_q.proj.bias"] = "text"


def moments(values: Any) -> None:
    values["optimizer_states"][0]["state"][5]["exp_avg"] = torch.ones(2, 2, 2)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "all that is wrong at once": (
        remove,
        r"3 things are wrong: .*flow.flows.0.pre.weight: missing, expected \(.*"
        r"model_g.extra: got \(3,\), expected none.*conv_post.bias: got \(7,\), expected \(1,\)",
    ),
    "types": (
        integers,
        "emb.weight: got int32, expected floating-point.*enc_q.proj.bias: got str",
    ),
    "moments": (moments, r"model_g\..* exp_avg: got \(2, 2, 2\), expected"),
    "no encoder": (
        lambda v: [v["state_dict"].pop(k) for k in list(v["state_dict"]) if "enc_p" in k],
        "not Piper's generator",
    ),
    "no generator": (lambda v: v.update(state_dict={"a": torch.ones(1)}), "not a tensor|not a P"),
    "no state_dict": (lambda v: v.pop("state_dict"), "not a Lightning checkpoint"),
    "optimizers": (lambda v: v["optimizer_states"].pop(), "got 1 optimizers, expected 2"),
    "betas": (
        lambda v: v["optimizer_states"][0]["param_groups"][0].update(betas="fast"),
        "optimizers cannot be",
    ),
    "dilations": (
        lambda v: v["hyper_parameters"].update(resblock_dilation_sizes="((1, 2"),
        "resblock_dilation_sizes: got",
    ),
    "no such epoch": (lambda v: v.update(epoch=-1), "epoch and global_step: expected numbers"),
    "odd step": (lambda v: v.update(global_step=float("inf")), "epoch and global_step"),
    "rates": (
        lambda v: v["optimizer_states"][0]["param_groups"][0].update(lr=float("nan")),
        "--learning-rate nan: expected a finite number",
    ),
    "line breaks": (
        lambda v: v["state_dict"].update({"model_g.a\nb": torch.ones(1)}),
        r"model_g.a b: got \(1,\), expected none",
    ),
    "a tensor for a list": (
        lambda v: v.update(optimizer_states=torch.ones(2)),
        "not one of Piper's checkpoints",
    ),
    "a number far up": (
        lambda v: v["state_dict"].update(
            {"model_g.enc_p.encoder.attn_layers.999999999.x": torch.ones(1)}
        ),
        "1 things are wrong: .*attn_layers.999999999.x: got",
    ),
    "no rate": (lambda v: v["hyper_parameters"].pop("sample_rate"), "add --voice-config"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    values = ckpt()
    change(values)
    path = write(values, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message) as caught:
        import_ckpt(path, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


class Hostile:
    """What unpickling would run."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.mkdir, "posix.mkdir"), (eval, "eval"), (torch.hub.load, "torch.hub.load")],
)
def test_nothing_in_a_file_is_run(tmp_path: Path, function: Any, named: str, legacy: bool) -> None:
    marker = tmp_path / "was run"
    argument = f"__import__('os').mkdir({str(marker)!r})" if function is eval else str(marker)
    values = ckpt() | {"callbacks": Hostile(function, argument)}
    path = tmp_path / "x.ckpt"
    torch.save(values, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=rf"refused, nothing in it was run.*{named}"):
        import_ckpt(path, tmp_path / "run")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", bytes(range(99))])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.ckpt"):
        piper.read(path)


# Properties: whatever is done to a file, it is read or refused, and nothing is half-written.

QUIET = hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def read_or_refuse(path: Path) -> None:
    """Import it. That what is read is written whole, other tests show: here it is not written."""
    before = sorted(path.parent.iterdir())
    try:
        with mock.patch("vits_jax.checkpoints.saving.write_new"):
            import_ckpt(path, path.parent / "run")
    except UserError as error:
        assert "\n" not in str(error)
    assert sorted(path.parent.iterdir()) == before


@QUIET
@hypothesis.given(data=st.data())
def test_damaged_bytes(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(saved.read_bytes())
    if data.draw(st.booleans(), "truncated"):
        content = content[: data.draw(st.integers(0, len(content) - 1), "length")]
    # The pickle lies at the start, the directory of the archive at the end.
    ends = st.integers(0, 30_000) | st.integers(max(0, len(content) - 30_000), len(content))
    for at in data.draw(st.lists(ends, max_size=8), "places"):
        if at < len(content):
            content[at] = data.draw(st.integers(0, 255), "byte")
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(content)
    read_or_refuse(path)


@hypothesis.settings(QUIET, max_examples=25)
@hypothesis.given(data=st.data())
def test_damaged_content(tmp_path: Path, data: st.DataObject) -> None:
    values = ckpt()
    odd: st.SearchStrategy[Any] = st.one_of(
        st.none(),
        st.integers(),
        st.floats(),
        st.sampled_from(["[{[]:1}]", "2001-99-99", "(" * 500, "None"]),
        st.text(max_size=5),
        st.lists(st.integers(0, 3), max_size=3),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        st.sampled_from([torch.ones(0), torch.ones(2, 3), torch.tensor(1), torch.ones(3).half()]),
    )
    for _ in range(data.draw(st.integers(1, 4))):
        place: Any = values
        while isinstance(place, (dict, list)) and len(place):
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or data.draw(st.integers(0, 3)) == 0:
                action = data.draw(st.sampled_from(["replace", "remove", "rename"]))
                if action == "replace":
                    place[key] = data.draw(odd)
                else:
                    value = place.pop(key)
                    if action == "rename" and isinstance(place, dict):
                        place[data.draw(st.text(max_size=5))] = value
                break
            place = place[key]
    read_or_refuse(write(values, tmp_path / "damaged.ckpt"))
