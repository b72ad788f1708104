"""A network without its arrays, which live in a plain dict by name.

Optimiser, checkpoints, sharding and conversion work on such dicts:
{"backbone/stem/0/conv/kernel": array, ...}.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from flax import nnx

Variables = Mapping[str, jax.Array | np.ndarray]
Model = TypeVar("Model", bound=nnx.Module)


@dataclass(frozen=True)
class Functional(Generic[Model]):
    """A module as a function of its variables."""

    graph: nnx.GraphDef[Model]
    state: nnx.State[Any, Any]

    def bind(self, variables: Variables) -> Model:
        """The module that holds `variables`; also inside a jitted function."""
        leaves = [
            (path, leaf.replace(variables[_name(path)]))
            for path, leaf in nnx.to_flat_state(self.state)
        ]
        model: Model = nnx.merge(self.graph, nnx.from_flat_state(leaves))
        return model

    def bind_for_inference(self, variables: Variables) -> Model:
        """The same with batch norm's running statistics, and without dropout.

        Rematerialisation and loops over blocks are switched off, too. They update modules, which is
        not allowed inside a loop over windows or mirrored images.
        """
        model = self.bind(variables)
        model.eval(remat="none", scan_blocks=False)  # type: ignore[no-untyped-call]
        return model

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every variable."""
        return {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(self.state)}

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the parameters that training changes: neither frozen ones nor statistics."""
        leaves = nnx.to_flat_state(self.state)
        return frozenset(_name(path) for path, leaf in leaves if isinstance(leaf, nnx.Param))

    @property
    def abstract(self) -> Model:
        """The module with shapes in place of arrays, for its properties."""
        model: Model = nnx.merge(self.graph, self.state)
        return model


def initialised(build: Callable[[nnx.Rngs], nnx.Module], seed: int) -> dict[str, jax.Array]:
    """Freshly initialised variables, by name, of the module that `build` makes."""
    # "rbg" compiles several times faster than JAX's default generator, unrolled for every shape.
    # Outside of jit, arrays of one shape share a program: one of all arrays takes long to compile.
    return flat_variables(build(nnx.Rngs(jax.random.key(seed, impl="rbg"))))


def flat_variables(module: nnx.Module) -> dict[str, Any]:
    """Every parameter and statistic of `module` by name; shapes of an abstract module."""
    leaves = nnx.to_flat_state(nnx.state(module))
    return {_name(path): leaf.get_value() for path, leaf in leaves}


def _name(path: tuple[object, ...]) -> str:
    return "/".join(str(part) for part in path)
