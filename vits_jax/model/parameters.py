"""Between a network's module and its flat dictionary of parameters.

Outside the model every network is ``{name: array}`` under Piper's ``state_dict`` names
(``"dec.ups.0.weight_v"``). Importing weights is then a rename, a warm start a filter,
and the training step works on plain dicts, which JAX dispatches fastest.
"""

from __future__ import annotations

from typing import TypeVar

import jax
from flax import nnx

Parameters = dict[str, jax.Array]
M = TypeVar("M", bound=nnx.Module)


def flatten(module: nnx.Module) -> Parameters:
    """The module's parameters under their ``state_dict`` names."""
    return {
        ".".join(map(str, path)): variable[...]
        for path, variable in nnx.to_flat_state(nnx.state(module))
    }


def bind(module: M, parameters: Parameters, *, partly: bool = False) -> M:
    """The same module with other parameters.

    Args:
        module: a module, abstract (``nnx.eval_shape``) or not; it is left as it is.
        parameters: one array for every name that ``flatten(module)`` gives.
        partly: some are not there, as only a part of the module will be called.

    Raises:
        KeyError: a parameter is missing.
    """
    graph, state = nnx.split(module)
    flat = {}
    for path, variable in nnx.to_flat_state(state):
        name = ".".join(map(str, path))
        given = parameters.get(name) if partly else parameters[name]
        flat[path] = variable if given is None else variable.replace(given)
    return nnx.merge(graph, nnx.from_flat_state(flat))
