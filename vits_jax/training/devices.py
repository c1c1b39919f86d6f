"""How the functions of a step become programs for a run's devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vits_jax.compilation import jit
from vits_jax.config import Config
from vits_jax.model.forms import forms_for
from vits_jax.model.networks import folded_networks
from vits_jax.model.parameters import Parameters
from vits_jax.model.precision import POLICIES, Precision, chosen
from vits_jax.training.gradients import joined
from vits_jax.training.mesh import formats
from vits_jax.training.objective import SHARED, Objective


def stacked(tree: Any) -> Any:
    """What differs between the devices, as rows over the mesh: each array with a dimension more."""
    return jax.tree.map(lambda x: x[None], tree)


def unstacked(tree: Any) -> Any:
    """The reverse, on each device."""
    return jax.tree.map(lambda x: x[0], tree)


class Devices:
    """How functions of a run are compiled for its devices; called, how arrays lie there."""

    def __init__(self, config: Config, mesh: Mesh, precision: Precision | None):
        self.mesh, self.platform = mesh, mesh.devices.flat[0].platform
        precision = precision or POLICIES[chosen(config.run.precision, self.platform)]
        self.objective = Objective(config, folded_networks(config), precision)

    def __call__(self, specs: Any) -> Any:
        """Shardings of a tree of partition specs."""
        return jax.tree.map(
            lambda spec: NamedSharding(self.mesh, spec),
            specs,
            is_leaf=lambda x: isinstance(x, P),
        )

    def held(self, arrays: Any) -> Any:
        """Of a state, or parts of it."""
        return formats(arrays, self.mesh)

    def handed_on(self, gradients: Parameters) -> Parameters:
        """Of a device, as one program gives them to another."""
        return stacked(joined(gradients, self.platform, apart=SHARED))

    def gradients(self, params: Parameters) -> Any:
        """Of what is `handed_on`."""
        pieces = jax.eval_shape(lambda p: joined(p, self.platform, apart=SHARED), params)
        return formats(pieces, self.mesh, stacked=True)

    def each(
        self,
        function: Callable[..., Any],
        specs: tuple[Any, ...],
        out_specs: Any,
        inputs: Any = None,
        outputs: Any = None,
        **options: Any,
    ) -> jax.stages.Wrapped:
        """`function` on each device, jitted; how its arguments and results lie follows the specs.

        Args:
            inputs, outputs: if they lie otherwise.
        """

        def on_device(*arguments: Any) -> Any:
            with self.objective.precision.products(), forms_for(self.mesh.devices.flat[0]):
                return function(*arguments)

        on_device.__name__ = function.__name__
        # check_vma would insert the gradients' sums by itself, once per tensor where it is used;
        # one explicit psum at the end is what the compiler combines best.
        sharded = jax.shard_map(
            on_device, mesh=self.mesh, in_specs=specs, out_specs=out_specs, check_vma=False
        )
        return jit(
            sharded,
            self.platform,
            in_shardings=self(specs) if inputs is None else inputs,
            out_shardings=self(out_specs) if outputs is None else outputs,
            **options,
        )

    def sum(self, lie: Any) -> jax.stages.Wrapped:
        """Of two trees that lie so, the first of which is given up."""

        def add(a: Any, b: Any) -> Any:
            return jax.tree.map(jnp.add, a, b)

        return jit(add, self.platform, in_shardings=(lie, lie), out_shardings=lie, donate_argnums=0)
