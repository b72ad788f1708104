"""Where a batch's images lie while they are computed with: on the mesh in context, if any.

Inside `jax.set_mesh(mesh)`, images are split over the axes `data` and `fsdp`, and the rows of each
image over `spatial`. Most follows from that alone: XLA has convolutions exchange the rows at their
borders, and makes means over a batch sums over all devices. What must not be left to it is said
here. Without a mesh, and inside of what runs on each device already, nothing here does anything.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

IMAGE_AXES = ("data", "fsdp")
ROW_AXIS = "spatial"

Queries = TypeVar("Queries")
Keys = TypeVar("Keys")
Sums = TypeVar("Sums")


def split(images: Array) -> Array:
    """[n, rows, ...], images and rows split; the rows need not divide."""
    axes = _axes()
    if not axes:
        return images
    return jax.lax.with_sharding_constraint(images, _split_spec(axes, images))


def whole_rows(images: Array) -> Array:
    """[n, rows, ...], images split; the devices that share one all hold the whole of it."""
    axes = _axes()
    if not axes:
        return images
    return gather(images, P(_image_axes(axes, images)), _split_spec(axes, images))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gather(x: Array, whole: P, parts: P) -> Array:
    """`x` laid out by `whole` on the mesh in context, and its gradient by `parts`.

    The gradient of a plain constraint would be whole, too, and what it is multiplied with on the
    way back gathered to match.
    """
    return jax.lax.with_sharding_constraint(x, whole)


def _gather_forward(x: Array, whole: P, parts: P) -> tuple[Array, None]:
    return gather(x, whole, parts), None


def _gather_backward(whole: P, parts: P, _: None, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, parts),)


gather.defvjp(_gather_forward, _gather_backward)


def on_each_device(
    function: Callable[[Queries, Keys], Array], queries: Queries, keys: Keys
) -> Array:
    """function(queries, keys) -> [n, rows, ...], by rows of the queries on their own devices.

    Each device computes its own images' rows and sees all keys of those images, so that a custom
    kernel or a loop inside is never split up by XLA. Gradients of keys are summed over devices.

    Args:
      function: its result's row i depends on the queries' row i, and on all keys.
      queries: arrays [n, rows, ...].
      keys: arrays [n, ...].
    """
    if not _axes():
        return function(queries, keys)
    length = jax.tree.leaves(queries)[0].shape[1]
    return _shared(function, _pad_rows(queries, 0), keys)[:, :length]


def sum_over_devices(
    function: Callable[[Queries, Keys], Sums], queries: Queries, keys: Keys, *, fill: int
) -> Sums:
    """The sum of function(queries, keys), scalars, over the parts of `on_each_device`.

    Rows that there are not, where they do not divide over devices, hold `fill`.
    """
    if not _axes():
        return function(queries, keys)

    def part(queries: Queries, keys: Keys) -> Any:
        return jax.tree.map(lambda x: x.reshape(1, 1), function(queries, keys))

    return jax.tree.map(jnp.sum, _shared(part, _pad_rows(queries, fill), keys))


def _shared(function: Callable[[Queries, Keys], Any], queries: Queries, keys: Keys) -> Any:
    axes, first = _axes(), jax.tree.leaves(queries)[0]
    rows = _split_spec(axes, first)
    return jax.shard_map(
        function,
        in_specs=(rows, P(_image_axes(axes, first))),
        out_specs=rows,
        check_vma=False,  # custom kernels do not say over which axes their results vary
    )(queries, keys)


def _pad_rows(arrays: Queries, fill: int) -> Queries:
    """Rows that divide. XLA itself pads them so: no row changes its device."""
    parts = _axes().get(ROW_AXIS, 1)
    return jax.tree.map(
        lambda x: jnp.pad(
            x, [(0, 0), (0, -x.shape[1] % parts)] + [(0, 0)] * (x.ndim - 2), constant_values=fill
        ),
        arrays,
    )


def _axes() -> dict[str, int]:
    """Sizes of the axes of the mesh in context over which XLA splits arrays."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return {}
    return dict(mesh.shape)


def _image_axes(axes: dict[str, int], images: Array) -> tuple[str, ...]:
    """The axes that split the images; none where there are too few, which all devices then hold."""
    chosen = tuple(axis for axis in IMAGE_AXES if axis in axes)
    return () if images.shape[0] % math.prod(axes[axis] for axis in chosen) else chosen


def _split_spec(axes: dict[str, int], images: Array) -> P:
    return P(_image_axes(axes, images), ROW_AXIS if ROW_AXIS in axes else None)
