"""The forms of a convolution: the same function and the same gradients, whatever the platform."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vits_jax.model.convolution import conv1d
from vits_jax.model.forms import FORMS, forms_for


@pytest.fixture(autouse=True)
def _x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("length", [24, 29, 41])
@pytest.mark.parametrize(
    ("k", "stride", "dilation", "groups"),
    [(3, 1, 2, 1), (5, 1, 6, 1), (7, 1, 12, 1), (41, 4, 1, 4), (5, 2, 1, 2), (3, 1, 3, 8)],
)
def test_every_form_is_the_operation(
    length: int, k: int, stride: int, dilation: int, groups: int
) -> None:
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, length, 8)))
    weight = jnp.asarray(random.normal(size=(8, 8 // groups, k)))
    padding = dilation * (k - 1) // 2

    def operation(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            weight,
            (stride,),
            [(padding, padding)],
            rhs_dilation=(dilation,),
            feature_group_count=groups,
            dimension_numbers=("NWC", "OIW", "NWC"),
        )

    expected, pull_back = jax.vjp(operation, x, weight)
    cotangent = jnp.asarray(random.normal(size=expected.shape))
    for platform in FORMS:
        with forms_for(platform):
            got, to_arguments = jax.vjp(
                lambda x, weight: conv1d(
                    x, weight, stride=stride, dilation=dilation, padding=padding, groups=groups
                ),
                x,
                weight,
            )
        assert got.shape == expected.shape
        for ours, theirs in zip(
            (got, *to_arguments(cotangent)), (expected, *pull_back(cotangent)), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10, err_msg=platform)
