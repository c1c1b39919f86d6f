"""Between a network's module and its flat dictionary of parameters.

Outside the model every network is ``{name: array}`` under Piper's ``state_dict`` names
(``"dec.ups.0.weight_v"``). Importing weights is then a rename, a warm start a filter,
and the training step works on plain dicts, which JAX dispatches fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

Parameters = dict[str, jax.Array]
M = TypeVar("M", bound=nnx.Module)
Carry = TypeVar("Carry")


def flatten(module: nnx.Module) -> Parameters:
    """The module's parameters under their ``state_dict`` names."""
    return {
        ".".join(map(str, path)): variable[...]
        for path, variable in nnx.to_flat_state(nnx.state(module))
    }


def bind(module: M, parameters: Parameters) -> M:
    """The same module with other parameters.

    Args:
        module: a module, abstract (``nnx.eval_shape``) or not; it is left as it is.
        parameters: one array for every name that ``flatten(module)`` gives.

    Raises:
        KeyError: a parameter is missing.
    """
    graph, state = nnx.split(module)
    flat = {
        path: variable.replace(parameters[".".join(map(str, path))])
        for path, variable in nnx.to_flat_state(state)
    }
    return nnx.merge(graph, nnx.from_flat_state(flat))


def apply_in_turn(
    function: Callable[[Any, Carry, Any], Carry],
    modules: Sequence[Any],
    carry: Carry,
    inputs: Any = None,
) -> Carry:
    """``for m, i in zip(modules, inputs): carry = function(m, carry, i)``, compiled once.

    The modules (or tuples of modules) are alike in all but their parameters' values, and
    ``carry`` keeps its shape. Compilers see one layer instead of many, and what depends on
    parameters alone (weight normalisation) is one operation for all layers.

    Args:
        inputs: arrays with a leading axis as long as ``modules``, or None.
    """
    layers = [flatten(module) for module in modules]
    stacked = {name: jnp.stack([layer[name] for layer in layers]) for name in layers[0]}

    def body(carry: Carry, layer: tuple[Parameters, Any]) -> tuple[Carry, None]:
        return function(bind(modules[0], layer[0]), carry, layer[1]), None

    return lax.scan(body, carry, (stacked, inputs))[0]
