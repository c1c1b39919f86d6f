"""Packed signals: the same convolutions."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vits_jax.model.convolution import conv1d, conv_transpose1d
from vits_jax.model.forms import forms_for
from vits_jax.model.layers import biased
from vits_jax.model.packed import pack, packed_conv1d, packed_conv_transpose1d, packing, unpack


@pytest.fixture(autouse=True)
def _x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def noise(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def same_gradients(one, other, *arguments: jax.Array) -> None:
    ours, pull_back = jax.vjp(one, *arguments)
    expected, pull_back_other = jax.vjp(other, *arguments)
    assert ours.shape == expected.shape
    cotangent = noise(*expected.shape)
    for a, b in zip(
        (ours, *pull_back(cotangent)), (expected, *pull_back_other(cotangent)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("channels", "k", "stride", "dilation", "groups", "packed"),
    [
        ((1, 16), 15, 1, 1, 1, (8, 8)),  # the scale discriminator's first
        ((16, 64), 41, 4, 1, 4, (8, 2)),  # and second
        ((64, 128), 41, 4, 1, 16, (2, 1)),
        ((32, 32), 7, 1, 12, 1, (4, 4)),  # the decoder's last stage
        ((32, 1), 7, 1, 1, 1, (4, 8)),
    ],
)
def test_a_packed_convolution_is_the_plain_one(
    channels: tuple[int, int],
    k: int,
    stride: int,
    dilation: int,
    groups: int,
    packed: tuple[int, int],
) -> None:
    c_in, c_out = channels
    x, weight = noise(2, 64, c_in), noise(c_out, c_in // groups, k)
    how = {"stride": stride, "dilation": dilation, "groups": groups}
    padding = dilation * (k - 1) // 2

    def ours(x: jax.Array, weight: jax.Array) -> jax.Array:
        y = packed_conv1d(pack(x, packed[0]), weight, packed=packed, padding=padding, **how)
        assert y.shape[2] == packed[1] * c_out
        return unpack(y, c_out)

    same_gradients(ours, lambda x, w: conv1d(x, w, padding=padding, **how), x, weight)


@pytest.mark.parametrize(("k", "stride"), [(8, 4), (16, 8), (4, 2), (2, 2)])
def test_a_packed_transposed_convolution_is_the_plain_one(k: int, stride: int) -> None:
    x, weight = noise(2, 9, 6), noise(6, 5, k)
    same_gradients(
        lambda x, w: unpack(packed_conv_transpose1d(x, w, stride), 5),
        lambda x, w: conv_transpose1d(x, w, stride),
        x,
        weight,
    )


def test_too_many_channels_are_a_mistake_where_nothing_is_packed() -> None:
    with pytest.raises(ValueError, match="feature"):
        conv1d(noise(1, 16, 8), noise(4, 4, 3), padding=1)


def test_a_signal_is_packed_where_that_fills_lanes() -> None:
    assert packing(32, 64) == 1
    with forms_for("tpu"):
        assert [packing(c, 64) for c in (1, 16, 32, 64, 128, 192)] == [64, 8, 4, 2, 1, 1]
        assert packing(32, 2 * 31) == 2  # packs are whole
        up = conv_transpose1d(noise(1, 16, 8), noise(8, 32, 8), 4, may_pack=True)
        assert up.shape == (1, 16, 4 * 32)
        plain = conv_transpose1d(noise(1, 16, 8), noise(8, 32, 8), 4)
        np.testing.assert_allclose(unpack(up, 32), plain, rtol=1e-10, atol=1e-10)
        # What has channels enough goes on as it is, and a bias is each sample's.
        assert conv1d(up, noise(128, 32, 3), padding=1).shape == (1, 64, 128)
        bias = jnp.arange(32.0)
        np.testing.assert_array_equal(unpack(biased(up, bias), 32), unpack(up, 32) + bias)
