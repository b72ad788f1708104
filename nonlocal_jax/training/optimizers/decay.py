"""Which parameters decay, by their names."""

from collections.abc import Callable, Iterable

import jax

from nonlocal_jax.config.schema import OptimizerOptions
from nonlocal_jax.errors import UserError

Mask = Callable[[dict[str, jax.Array]], dict[str, bool]]
NORM = "norm"  # in the name of a norm, as ".../norm/scale"


def mask(options: OptimizerOptions) -> Mask | None:
    """Whether each parameter decays, as Optax takes it; None if all do."""
    if options.decay_norms and options.decay_biases and not options.undecayed:
        return None
    return lambda parameters: {name: decays(options, name) for name in parameters}


def check(options: OptimizerOptions, names: Iterable[str]) -> None:
    """Raises a UserError if `undecayed` names a layer that no parameter of the network has.

    Args:
      options: the section `optimizer` of a config.
      names: of all parameters, as "decode_head/theta/kernel".
    """
    parts = {part for name in names for part in name.split("/")}
    unknown = [layer for layer in options.undecayed if layer not in parts]
    if unknown:
        layers = sorted(part for part in parts if not part.isdecimal())
        raise UserError(
            f"config.optimizer.undecayed has {unknown[0]!r}, and no layer of this network has that "
            f"name. Its layers have: {', '.join(layers)}."
        )


def decays(options: OptimizerOptions, name: str) -> bool:
    """Whether the parameter of that name decays."""
    if not set(options.undecayed).isdisjoint(name.split("/")):
        return False
    if is_of_a_norm(name):
        return options.decay_norms
    return options.decay_biases or name.split("/")[-1] != "bias"


def is_of_a_norm(name: str) -> bool:
    """Whether a parameter is the scale or the bias of a norm."""
    *layers, _ = name.split("/")
    return bool(layers) and NORM in layers[-1]
