"""Copies of the arrays of a training state, made while training goes on."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding

HOST = "pinned_host"  # CPUs, GPUs and TPUs have this kind of memory
Arrays = TypeVar("Arrays")


def copied(arrays: Arrays) -> Arrays:
    """Copies of a tree of arrays, which are still being made when this returns.

    The arrays may be donated at once: JAX lets whatever overwrites them wait for the copies.

    Arrays on one device are copied to the memory of its host, so they need no memory of the device.
    Of arrays on several devices, each device copies a part that no other one copies, if an axis
    divides evenly, in its own memory. Nothing is sent between devices.
    """
    leaves, structure = jax.tree.flatten(arrays)
    if all(leaf.sharding.num_devices == 1 for leaf in leaves):
        places = [leaf.sharding.with_memory_kind(HOST) for leaf in leaves]
        copies = jax.device_put(leaves, places)
    else:
        copies = _copying(tuple(parted(leaf.sharding, leaf.shape) for leaf in leaves))(leaves)
    tree: Arrays = jax.tree.unflatten(structure, copies)
    return tree


def parted(sharding: Sharding, shape: Sequence[int]) -> Sharding:
    """The sharding whose devices hold different parts of what they hold by `sharding`.

    It is `sharding` itself if its parts differ already, or if no axis divides evenly.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding
    sizes = sharding.mesh.shape
    split = [_names(entry) for entry in sharding.spec] + [()] * (len(shape) - len(sharding.spec))
    used = [name for names in split for name in names]
    others = tuple(name for name in sizes if name not in used and sizes[name] > 1)
    copies = math.prod(sizes[name] for name in others)
    parts = [math.prod(sizes[name] for name in names) for names in split]
    lengths = [length // part for length, part in zip(shape, parts, strict=True)]
    dividing = [axis for axis, length in enumerate(lengths) if length and length % copies == 0]
    if copies == 1 or not dividing:
        return sharding
    largest = max(dividing, key=lambda axis: lengths[axis])
    # New names come last: each device then keeps a part of what it has, and nothing moves.
    split[largest] += others
    return NamedSharding(sharding.mesh, PartitionSpec(*(names or None for names in split)))


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The axes of a mesh that split one axis of an array."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


@functools.lru_cache(maxsize=2)  # a run copies arrays of the same shardings every time
def _copying(
    shardings: tuple[Sharding, ...],
) -> Callable[[Sequence[jax.Array]], Sequence[jax.Array]]:
    # Without jnp.copy, JAX may hand on an array that is returned as it is.
    return jax.jit(lambda arrays: [jnp.copy(array) for array in arrays], out_shardings=[*shardings])
